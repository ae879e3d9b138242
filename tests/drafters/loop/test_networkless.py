"""Drafters without a network: published, loaded, and lossless."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.load import load_drafter, with_sources
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER
from drafter_trainer.drafters.ngram import LEAST_BYTES, count_table
from drafter_trainer.errors import InputError
from drafter_trainer.hub.publish import Publishing, publish_run
from drafter_trainer.runs import Run
from drafter_trainer.targets import Target
from tests.client import run_client
from tests.decoding.drafts import set_draft_length
from tests.decoding.lossless import TOY_PROMPT, TOY_SIZE, check_greedy, check_sampled
from tests.drafters.loop.conftest import PROMPTS, greedy_answers, make_loop, make_settings
from tests.hub.conftest import make_run
from tests.loopback_hub import LoopbackHub

REPO = "alice/tiny-ngram-drafter-de-en"
CHEAP = ["lookup", "ngram"]


def run_of(published: Path) -> Run:
    """The run that the published drafter with a network came from."""
    return Run("tiny-ngram-de-en", published.parent / "run", "de-en")


@pytest.fixture(scope="module")
def folder(published: Path, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same drafter, published without its network."""
    publishing = Publishing(to=str(tmp_path_factory.mktemp("ngram") / "drafter"), sources=CHEAP)
    return Path(publish_run(run_of(published), target, "auto", publishing).place)


def test_repository_holds_no_network(folder: Path, published: Path) -> None:
    """Weights that nobody reads are a download of megabytes; a table that is left out is a drafter of nothing."""
    assert (folder / "model.safetensors").stat().st_size < 200
    assert not (folder / VOCABULARY).exists()
    assert (folder / TABLE).read_bytes() == (published / TABLE).read_bytes()
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()} - {
        VOCABULARY
    }


def test_loaded_drafter_drafts_with_its_table_alone(folder, target_model, tokenizer) -> None:
    """A drafter that asks a network that is not there, or does not find its table, fails or drafts nothing."""
    drafter = load_drafter(str(folder), target_model, tokenizer)
    loop = loop_of(drafter)
    assert isinstance(drafter, NetworklessDrafter)
    assert (loop.network, loop.settings.sources, loop.table.orders) == (None, CHEAP, [3, 2, 1])
    assert 0 < alpha(check_greedy(target_model, drafter)) < 1
    looking_up = with_sources(drafter, ["lookup"])
    assert (loop_of(looking_up).table, loop_of(looking_up).network) == (None, None)
    decode(target_model, PROMPTS[0], {"assistant_model": looking_up}, 0.0, 0, 4)


def test_sampled_answers_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """Tokens that were copied count as certain: taken for drawn ones, they change what the target says."""
    answers = greedy_answers(toy_target, [TOY_PROMPT, [3, 4, 5], [9, 2, 6]], 12)
    drafter = NetworklessDrafter.for_vocabulary(TOY_SIZE)
    table = count_table(answers, range(1, HIGHEST_ORDER + 1), max_bytes=LEAST_BYTES)
    attach_loop(drafter, make_loop(make_settings(sources=CHEAP), None, table, TOY_SIZE))
    check_sampled(toy_target, {"assistant_model": drafter}, low=0, high=1)


def test_nothing_is_answered_without_a_network(target_model, tokenizer) -> None:
    """Whoever takes it for a model, or lost the loop on the way, must read so, and not of a missing num_layers."""
    drafter = set_draft_length(NetworklessDrafter.for_vocabulary(len(tokenizer)), 3)
    message = "has no network and answers nothing: load it with load_drafter"
    with pytest.raises(ValueError, match=message):
        drafter.generate(torch.tensor([PROMPTS[0]]))
    with pytest.raises(ValueError, match=message):
        decode(target_model, PROMPTS[0], {"assistant_model": drafter}, 0.0, 0, 4)


def test_run_without_a_table_is_refused(target: Target, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A repository with neither network nor table is prompt lookup under another name."""
    run = Run("tiny-ngram-de-en", make_run(tmp_path / "run", tokenizer), "de-en")
    publishing = Publishing(to=str(tmp_path / "drafter"), sources=CHEAP)
    with pytest.raises(InputError, match=r"has no n-gram table: tune first, or publish with the network"):
        publish_run(run, target, "auto", publishing)
    assert not (tmp_path / "drafter").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sources": ["suffix"]}, "sources may name lookup, ngram, network, got suffix"),
        ({"sources": CHEAP, "adapter_of": "alice/base"}, "an adapter is a network's"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    """A mistyped source would publish a drafter that asks nobody."""
    with pytest.raises(InputError, match=message):
        Publishing(**given)


def draft_without_network(repo: str, target: str, package: bool) -> dict:
    """Draft in a process with an empty cache, with the package or with transformers alone."""
    import sys

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(target)
    ids = torch.tensor([[50, 60, 70, 80, 90, 100, 110]])
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 16, "do_sample": False}
    plain = model.generate(ids, **given)
    if package:
        from drafter_trainer import load_drafter

        drafter = load_drafter(repo, model)
    else:
        drafter = AutoModelForCausalLM.from_pretrained(repo, dtype=model.dtype, trust_remote_code=True)
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    equal = torch.equal(plain, model.generate(ids, **given, assistant_model=drafter))
    facts = {"equal": equal, "fewer": len(passes) < 16, "table": drafter._drafting_loop.table is not None}
    model.generate(ids, **given | {"do_sample": True}, assistant_model=drafter)
    stopping = given | {"stop_strings": " A", "tokenizer": AutoTokenizer.from_pretrained(target)}
    facts["equal"] &= torch.equal(
        model.generate(ids, **stopping), model.generate(ids, **stopping, assistant_model=drafter)
    )
    facts["stops"] = drafter._drafting_loop.call.endings is not None
    return facts | {"package": any(name.startswith("drafter_trainer") for name in sys.modules)}


def test_hub_repository_loads_in_fresh_processes(folder: Path, target: Target, tmp_path: Path) -> None:
    """What has no architecture that transformers knows must come with its own, and be found under the commit."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    whole = {"equal": True, "fewer": True, "table": True, "stops": True}
    with LoopbackHub(tmp_path / "hub", {}) as hub:
        hub.add_repo(REPO, files)
        for package in (True, False):
            home = tmp_path / f"home-{package}"
            seen = run_client(hub, home, draft_without_network, repo=REPO, target=target.path, package=package)
            assert seen == whole | {"package": package}


def test_folder_loads_with_the_package_without_remote_code(folder: Path) -> None:
    """Code out of a repository must not run where nobody asked for it."""
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is NetworklessDrafter
