"""The loop out of a published repository: from a folder, and from the loopback Hub as remote code."""

import ast
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import drafter_trainer.drafters.loop as loop_package
from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.build import DESCRIPTION, TABLE, VOCABULARY, build_loop
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.settings import NGRAM_BINS, LoopSettings
from drafter_trainer.drafters.ngram import count_table, table_bytes
from drafter_trainer.drafters.saving import DRAFT_LENGTH
from drafter_trainer.drafters.vocabulary import vocabulary_bytes
from drafter_trainer.errors import InputError
from tests.client import run_client
from tests.conftest import change_json
from tests.decoding.lossless import check_greedy
from tests.drafters.loop.conftest import describe, make_settings, replace_file
from tests.loopback_hub import LoopbackHub

REPO = "alice/tiny-drafter-de-en"


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "drafter"))


# Through the package


def test_published_drafter_drafts_with_all_that_was_tuned(folder, target_model, tokenizer) -> None:
    """Prevent published files from not being found, which would make drafting slower."""
    change_json(folder / "config.json", parallel_tokens=4, pard_token=3)  # of earlier releases, ignored
    describe(folder, weights={})
    drafter = load_drafter(str(folder), target_model, tokenizer)
    loop = loop_of(drafter)
    assert loop.settings == make_settings(longest_draft=5)
    assert loop.table.orders == [3, 2, 1]
    assert 0 < len(loop.network.draft_ids) <= 40
    assert loop.network.read([5]).shape == (len(loop.network.draft_ids),)
    assert loop.vocabulary == len(tokenizer)
    assert drafter.generation_config.num_assistant_tokens == 5
    assert 0 < alpha(check_greedy(target_model, drafter)) < 1


def test_file_of_an_earlier_drafter_is_not_read(folder, target_model, tokenizer, recwarn) -> None:
    """A repository keeps what was once uploaded; only what the description names is this drafter's."""
    files = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["files"]
    describe(folder, files={VOCABULARY: files[VOCABULARY]})
    assert loop_of(load_drafter(str(folder), target_model, tokenizer)).table is None
    assert [str(warning.message) for warning in recwarn if "damaged" in str(warning.message)] == []


@pytest.mark.parametrize("name", [VOCABULARY, TABLE])
@pytest.mark.parametrize("damage", ["a byte", "gone"])
def test_damaged_file_is_refused_or_done_without(folder, target_model, tokenizer, name, damage) -> None:
    """Prevent drafts with an altered vocabulary, and the silent loss of a table."""
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 0xFF
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    without = rf"{name} is damaged \(.*drafting continues without it: download it again"
    if name == TABLE:
        with pytest.warns(UserWarning, match=without):
            check_greedy(target_model, load_drafter(str(folder), target_model, tokenizer))
    else:
        refusal = (
            f"{folder} lacks {name}" if damage == "gone" else f"{name} of {folder} is not the file that was published"
        )
        with pytest.raises(InputError, match=refusal):
            load_drafter(str(folder), target_model, tokenizer)
    drafter = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.warns(UserWarning, match=without):
        loop = build_loop(drafter, lambda name: found(folder / name))
    assert (loop.table is None) == (name == TABLE)
    assert (loop.network.draft_ids is None) == (name == VOCABULARY)
    attach_loop(drafter, loop)
    check_greedy(target_model, drafter)


OTHER_IDS = vocabulary_bytes(torch.tensor([1, 400]))
OTHER_TABLE = table_bytes(count_table([[1, 2, 3]], (1,), 0.0), "cd" * 32)
UNKNOWN_SETTING = LoopSettings().to_dict() | {"draft_tree": 3}


def order_that_was_not_tuned(folder: Path) -> None:
    loop = LoopSettings().to_dict()
    loop["calibration"]["ngram"] = loop["calibration"]["ngram"][: 3 * NGRAM_BINS]
    describe(folder, loop=loop)
    tokenizer_sha256 = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["tokenizer_sha256"]
    table = count_table([[1, 2, 3, 4, 5]], (1, 2, 3, 4), 0.0)
    replace_file(folder, TABLE, table_bytes(table, tokenizer_sha256))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: replace_file(folder, VOCABULARY, OTHER_IDS), "has no ascending ids below 400: it is for"),
        (lambda folder: replace_file(folder, TABLE, OTHER_TABLE), "was counted with another tokenizer: count it"),
        (order_that_was_not_tuned, "has order 4, the calibration in .* has orders up to 3: tune and publish"),
        (lambda folder: describe(folder, loop=UNKNOWN_SETTING), "unknown settings draft_tree: use the release that"),
    ],
)
def test_what_does_not_fit_is_refused(folder, target_model, tokenizer, spoil, message) -> None:
    """Prevent drafts with the files of another drafter."""
    spoil(folder)
    with pytest.raises(InputError, match=f"^{folder} cannot be used: .*{message}"):
        load_drafter(str(folder), target_model, tokenizer)
    with pytest.raises(ValueError, match=message):
        build_loop(AutoModelForCausalLM.from_pretrained(folder), lambda name: found(folder / name))


def found(path: Path) -> Path | None:
    return path if path.is_file() else None


def test_model_without_description_is_no_drafter(target_model: PreTrainedModel) -> None:
    """Remote code that is copied to another model's repository has nothing to go by."""
    with pytest.raises(ValueError, match=r"has no drafter\.json: publish the drafter again"):
        build_loop(target_model, lambda name: None)


# Without the package


def test_loop_stands_alone() -> None:
    """Its files are `custom_generate/` in the repository of somebody who never heard of this package."""
    sources = {path.stem: path for path in Path(loop_package.__file__).parent.glob("*.py") if path.stem != "__init__"}
    allowed = {"numpy", "safetensors", "torch", "transformers"}
    for path in sources.values():
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
            if node.level == 0:
                names.add(node.module)
            else:  # transformers copies what `from .name import` names, and nothing else.
                assert (node.level, node.module in sources) == (1, True), f"{path.name}: {ast.unparse(node)}"
        assert {name.split(".")[0] for name in names} <= allowed | sys.stdlib_module_names, path.name
    assert DESCRIPTION == FILE_NAME


def test_folder_without_remote_code_drafts_with_the_stock_loop(published: Path, target_model: PreTrainedModel) -> None:
    """Nobody has to trust anything: the drafter is a model of a known family, with its published draft length."""
    drafter = AutoModelForCausalLM.from_pretrained(published)
    assert "generate" not in vars(drafter)
    drafted = Counter(round_.drafted for round_ in check_greedy(target_model, drafter))
    assert drafted.most_common(1)[0][0] == drafter.generation_config.num_assistant_tokens == DRAFT_LENGTH


def draft_remotely(drafters: list, target: str) -> dict:
    """Draft with published drafters, each by name, revision and trust; the last one with the package at last too."""
    import sys

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(target), AutoTokenizer.from_pretrained(target)
    ids = torch.tensor([[50, 60, 70, 80, 90, 100, 110]])
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 16, "do_sample": False}
    plain, passes = model.generate(ids, **given), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))

    def draft(drafter):
        passes.clear()
        output = model.generate(ids, **given, assistant_model=drafter)
        facts = {"equal": torch.equal(output, plain), "fewer": len(passes) < 16}
        model.generate(ids, **given | {"do_sample": True}, assistant_model=drafter)
        loop = getattr(drafter, "_drafting_loop", None)
        if loop is not None:
            stopping = given | {"stop_strings": [" A", "in", "ll", " m", "de"], "tokenizer": tokenizer}
            ended = model.generate(ids, **stopping)
            facts["equal"] &= torch.equal(model.generate(ids, **stopping, assistant_model=drafter), ended)
            facts["stops"] = loop.call.endings is not None
            facts["module"] = type(loop).__module__.split(".")[0]
            facts["longest_draft"] = loop.settings.longest_draft
            facts["table"] = loop.table is not None
            facts["draft_ids"] = loop.network is not None and loop.network.draft_ids is not None
        return facts

    seen = [
        draft(AutoModelForCausalLM.from_pretrained(name, revision=revision, trust_remote_code=trust))
        for name, revision, trust in drafters
    ]
    package = any(name.startswith("drafter_trainer") for name in sys.modules)
    from drafter_trainer import load_drafter

    return {"seen": [*seen, draft(load_drafter(drafters[-1][0], model))], "package": package}


def files_of(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def test_remote_code_finds_what_lies_beside_it(published, without_network, target, tmp_path) -> None:
    """transformers copies the code alone, so that the loop must find its data by name and commit, in a folder too."""
    with LoopbackHub(tmp_path / "hub", {}) as hub:
        first = hub.add_repo(REPO, files_of(published))
        repo = hub.repos["model", REPO]
        # A second commit, with other settings, and without a table
        description = json.loads((published / FILE_NAME).read_text(encoding="utf-8"))
        changed = description | {"loop": description["loop"] | {"longest_draft": 2}}
        stored = dict(repo.at("main").files)
        stored[FILE_NAME] = hub.store(repo, json.dumps(changed).encode(), lfs=False)
        del stored[TABLE]
        repo.commit("main", repo.owner, "tune again", stored)
        hub.add_repo("alice/ngram", files_of(without_network))  # of no architecture that transformers knows
        drafters = [(str(published), None, True), (REPO, first, True), (REPO, None, True), (REPO, None, False)]
        drafters.append(("alice/ngram", None, True))
        result = run_client(hub, tmp_path / "home", draft_remotely, drafters=drafters, target=target.path)
    assert result["package"] is False
    always = {"equal": True, "fewer": True}
    whole = always | {"stops": True, "module": "transformers_modules"}
    whole |= {"longest_draft": 5, "table": True, "draft_ids": True}
    ngram = whole | {"draft_ids": False}
    changed = whole | {"longest_draft": 2, "table": False}
    assert result["seen"] == [whole, whole, changed, always, ngram, ngram | {"module": "drafter_trainer"}]
