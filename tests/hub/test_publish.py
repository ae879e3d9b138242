"""Publishing to a folder, and to the loopback Hub with the real client."""

import copy
import fnmatch
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import drafter_trainer.drafters.loop as loop_package
import drafter_trainer.pipeline.publish as publish_module
from drafter_trainer import publish
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card_folder import render_folder
from drafter_trainer.hub.destination import Destination
from drafter_trainer.hub.push import ALLOWED
from drafter_trainer.targets import Target
from tests.client import run_client
from tests.conftest import make_model
from tests.drafters.test_load import swap_two_tokens
from tests.hub.conftest import NAME, results_for
from tests.loopback_hub import LoopbackHub

FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "custom_generate",
    "drafter.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_no_path_of_this_machine_is_published(trained: Path, target: Target, tmp_path: Path) -> None:
    """A card that says where its maker's folders lie tells strangers about a machine, and its readers nothing."""
    to, cards = tmp_path / "published", tmp_path / "cards"
    publish(trained, target, to, card_folder=cards)
    assert all(str(tmp_path) not in path.read_text("utf-8", "replace") for path in files_in(to))
    (cards / NAME / "notes.md").write_text(f"Trained on {tmp_path}/text.txt.", encoding="utf-8")
    with pytest.raises(InputError, match=rf"README.md contains {tmp_path}/text.txt., a path of this machine"):
        publish(trained, target, to, card_folder=cards)


def test_folder_appears_whole(trained, target, tmp_path, monkeypatch) -> None:
    """A pickle that a library writes next to the weights would be published, or a file of the drafter would not."""
    to, assemble = tmp_path / "published", publish_module.assemble

    def with_more(*given: object, **options: object) -> DrafterDescription:
        description = assemble(*given, **options)
        (given[3] / "training_args.bin").write_bytes(b"pickle")
        (given[3] / "custom_generate" / "state.pkl").write_bytes(b"pickle")
        return description

    monkeypatch.setattr(publish_module, "assemble", with_more)
    publication = publish(trained, target, to)
    assert str(publication) == f"published: {to}"
    assert publication.files == {str(path.relative_to(to)): path.stat().st_size for path in files_in(to)}
    assert {path.name for path in to.iterdir()} == FILES
    assert set(ALLOWED) >= FILES - {"custom_generate"}
    loop = {path.name for path in Path(loop_package.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert {path.name for path in (to / "custom_generate").iterdir()} == loop
    description = DrafterDescription.read(to)
    assert (description.name, description.target, description.pair) == (NAME, target.name, "de-en")
    assert description.training["finetune"] == {"train_rows": 7, "learning_rate": 0.001}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    # vLLM and SGLang load every weights file that no index rules out, and fail on a table or a draft vocabulary.
    index = json.loads((to / "model.safetensors.index.json").read_text(encoding="utf-8"))
    with safe_open(to / "model.safetensors", framework="pt") as weights:
        assert index["weight_map"] == dict.fromkeys(weights.keys(), "model.safetensors")
        sizes = [weights.get_tensor(name).nbytes for name in weights.keys()]  # noqa: SIM118
    assert index["metadata"]["total_size"] == sum(sizes)
    model = AutoModelForCausalLM.from_pretrained(to)
    expected = AutoModelForCausalLM.from_pretrained(trained).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert "model.safetensors.index.json" in description.weights


def test_weights_are_stored_once_and_as_the_target_stores_them(trained, target, tokenizer, tmp_path) -> None:
    """In float32 and with embeddings twice, a drafter of two layers was as large as its target."""
    own, to = tmp_path / "target", tmp_path / "published"
    make_model(tokenizer).to(torch.bfloat16).save_pretrained(own)
    tokenizer.save_pretrained(own)
    drafter = AutoModelForCausalLM.from_pretrained(trained)
    drafter.config.tie_word_embeddings = False
    drafter.lm_head.weight = torch.nn.Parameter(drafter.lm_head.weight.detach().clone())
    drafter.save_pretrained(trained)
    publish(trained, Target(target.name, target.revision, str(own)), to)
    layers = sum(weight.numel() for name, weight in drafter.named_parameters() if "layers" in name or "norm" in name)
    stored = load_file(to / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert sum(weight.numel() for weight in stored.values()) == layers + drafter.lm_head.weight.numel()
    size = DrafterDescription.read(to).size
    assert size == {"parameters": f"{layers + drafter.lm_head.weight.numel():,}", "dtype": "bfloat16"} | {
        "model.safetensors": f"{(to / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    }
    assert f"dtype bfloat16, model.safetensors {size['model.safetensors']} |" in (to / "README.md").read_text()


def test_results_come_with_the_second_publication(trained: Path, target: Target, tmp_path: Path) -> None:
    """The second publication brings the numbers, each with its file, and keeps the weights."""
    to, cards = tmp_path / "published", tmp_path / "cards"
    results_folder = trained.parent
    publish(trained, target, to, card_folder=cards, results=results_folder)
    weights = (to / "model.safetensors").read_bytes()
    assert "Not measured yet" in (to / "README.md").read_text(encoding="utf-8")
    results = results_for(NAME, DrafterDescription.read(to).fingerprint())
    (results_folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    sampled, more = copy.deepcopy(results), ("sampling/results.json", "tasks/story/results.json")
    sampled["runs"][0]["temperature"] = 1.0
    for name in more:
        (results_folder / name).parent.mkdir(parents=True)
        (results_folder / name).write_text(json.dumps(sampled), encoding="utf-8")
    (cards / NAME / "notes.md").write_text("Written by hand.\n", encoding="utf-8")
    publish(trained, target, to, card_folder=cards, results=results_folder)
    assert (to / "model.safetensors").read_bytes() == weights
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "1.23x (1.11-1.34)" in card
    assert card.count("### ") == 3
    for name in more:
        assert json.loads((to / name).read_text(encoding="utf-8")) == sampled
        assert any(fnmatch.fnmatch(name, pattern) for pattern in ALLOWED)
    assert card.endswith("Written by hand.\n")
    assert (cards / NAME / "README.md").read_text(encoding="utf-8") == card
    assert json.loads((cards / NAME / "results.json").read_text()) == results
    # What make cards renders anew is what was published.
    kept = {str(path.relative_to(cards / NAME)): path.read_bytes() for path in files_in(cards / NAME)}
    written = {"README.md", "acceptance.png", "drafter.json", "notes.md", "card.json", "results.json"}
    assert set(kept) == written | set(more)
    render_folder(cards / NAME)
    assert {str(path.relative_to(cards / NAME)): path.read_bytes() for path in files_in(cards / NAME)} == kept


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("destination", "exists and holds no drafter"),
        ("notes", r"notes\.md is not UTF-8"),
        ("tokenizer", "differs from the target's in 2 tokens"),
    ],
)
def test_what_cannot_be_published_leaves_the_destination(trained, target, tmp_path, spoilt, message) -> None:
    """A mistyped folder, notes in another encoding, or a drafter whose tokens are all rejected destroys nothing."""
    to, notes = tmp_path / "thesis", tmp_path / "cards" / NAME / "notes.md"
    to.mkdir()
    notes.parent.mkdir(parents=True)
    notes.write_bytes("Größe".encode("latin-1" if spoilt == "notes" else "utf-8"))
    if spoilt == "destination":
        (to / "chapter.tex").write_text("words")
    if spoilt == "tokenizer":
        swap_two_tokens(trained)
    with pytest.raises(InputError, match=message):
        publish(trained, target, to, card_folder=tmp_path / "cards")
    assert [path.name for path in to.iterdir()] == ["chapter.tex"] * (spoilt == "destination")


def test_dry_run_lists_and_leaves_nothing(trained: Path, target: Target, tmp_path: Path) -> None:
    """A trial that writes is no trial."""
    to, cards = tmp_path / "published", tmp_path / "cards"
    said = str(publish(trained, target, to, card_folder=cards, dry_run=True))
    assert said.startswith(f"dry run, nothing went to {to}:\n")
    listed = {Path(line.split(" bytes  ")[1]).parts[0] for line in said.splitlines()[1:]}
    assert listed == FILES
    assert not to.exists()
    assert not cards.exists()


def test_failure_leaves_the_published_folder(trained, target, tmp_path, monkeypatch) -> None:
    """A disk that fills during the second publication must not destroy the first."""
    to = tmp_path / "published"
    publish(trained, target, to)
    before = {path.name: path.read_bytes() for path in files_in(to)}

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish_module, "write_card", full)
    with pytest.raises(OSError, match="No space left"):
        publish(trained, target, to)
    assert {path.name: path.read_bytes() for path in files_in(to)} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_missing_token_is_found_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before hours of training, not after them."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="no token for the Hub: set HF_TOKEN"):
        Destination().check()


def publish_as_a_command(words: list) -> str:
    """Publish to the Hub as the command does; return what it wrote to standard error."""
    import contextlib
    import io

    from drafter_trainer.cli.launch import run_step
    from drafter_trainer.cli.publish import main

    with contextlib.redirect_stderr(io.StringIO()) as written, contextlib.suppress(SystemExit):
        run_step(main, words)
    return written.getvalue()


def test_refusal_is_one_line_without_the_token(trained, target, tmp_path) -> None:
    """Of a token with a character that no header may have, the HTTP library shows the whole header."""
    words = ["--pair", "de-en", "--drafter_name", NAME, "--run_folder", str(trained.parent)]
    words += ["--target_model", f"{target.name}={target.path}"]
    with LoopbackHub(tmp_path / "hub", {}) as hub:
        said = run_client(hub, tmp_path / "home", publish_as_a_command, "hf_wrong\ttoken", words=words)
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    assert line.startswith("error: the Hub")
    assert "Traceback" not in said
    assert "hf_wrong" not in said


@pytest.mark.parametrize("name", ["a/b/c", "with space", "me/x..y"])
def test_repository_without_a_valid_name_is_refused(name, trained, target, monkeypatch) -> None:
    """The Hub's client would end in a traceback, or make an empty repository before it fails."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr(HfApi, "whoami", lambda _: {"name": "me"})
    with pytest.raises(InputError, match=r"cannot name a repository .*: give OWNER/NAME"):
        publish(trained, target, repo_id=name)


def test_revision_and_tag_are_the_hubs(tmp_path: Path) -> None:
    """A folder that silently has no tag would be taken for a version."""
    with pytest.raises(InputError, match="only the Hub has revision and tag"):
        Destination(to=str(tmp_path), tag="v1")
    with pytest.raises(InputError, match="to is 'hub' or a folder, got hub:me/x: give repository and branch as"):
        Destination(to="hub:me/x")


@pytest.mark.parametrize(
    "damage",
    [
        *({"schema_version": value} for value in (None, 0, "1", [])),
        *({"provenance": value} for value in (None, [], {}, {"drafter": None}, {"drafter": NAME, "command": [{}]})),
        *({"runs": value} for value in (None, {}, "runs", [None], [{}], [[1]], [{"methods": []}])),
    ],
    ids=json.dumps,
)
def test_malformed_results_are_not_published(tmp_path, published, target, damage) -> None:
    """Results are read before anything is written: no folder may be incomplete."""
    values = results_for(NAME, DrafterDescription.read(published).fingerprint())
    (tmp_path / "results.json").write_text(json.dumps(values | damage), encoding="utf-8")
    with pytest.raises(InputError):
        publish(published, target, tmp_path / "to", results=tmp_path)
    assert not (tmp_path / "to").exists()
