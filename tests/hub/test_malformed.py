"""Malformed repositories and cards, by the hundred: each ends in one clear line, and none half published."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import RepoCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.cli.arguments import PublishingArguments, RunArguments
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription, hash_file
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.ngram import count_table, table_bytes
from drafter_trainer.drafters.vocabulary import vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import render_card
from drafter_trainer.hub.publish import publish_run
from drafter_trainer.targets import Target
from tests.hub.conftest import make_run, results_for
from tests.loopback_hub import read_card

NAME = "tiny-drafter-de-en"


def examples(count: int) -> Callable[[Callable], Callable]:
    """Draw so many examples, the same in each run, however long they take."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast, target: Target) -> Path:
    """A published drafter with draft vocabulary and table."""
    import torch

    folder = tmp_path_factory.mktemp("malformed")
    run = RunArguments(pair="de-en", drafter_name=NAME, run_folder=str(make_run(folder / "run", tokenizer)))
    publish_run(run, target, "float32", PublishingArguments(to=str(folder / "published")))
    place = folder / "published"
    description = json.loads((place / FILE_NAME).read_text(encoding="utf-8"))
    (place / VOCABULARY).write_bytes(vocabulary_bytes(torch.arange(2, 300)))
    table = count_table([[1, 2, 3, 4, 5, 6]] * 4, (1, 2))
    (place / TABLE).write_bytes(table_bytes(table, description["tokenizer_sha256"]))
    description["files"] = {name: hash_file(place / name) for name in (VOCABULARY, TABLE)}
    description["loop"] = LoopSettings().to_dict()
    (place / FILE_NAME).write_text(json.dumps(description), encoding="utf-8")
    return place


@pytest.fixture
def copied(published: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copies of the published drafter, each to be spoilt."""

    def copy() -> Path:
        shutil.rmtree(tmp_path / "drafter", ignore_errors=True)
        return Path(shutil.copytree(published, tmp_path / "drafter"))

    return copy


def refusal_of(work: Callable[[], object]) -> str | None:
    """Return the message of the refusal, or `None` where there is none; any other exception fails the test."""
    try:
        work()
    except InputError as error:
        return str(error)
    return None


def check_refused(folder: Path, target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError) as caught:
        load_drafter(str(folder), target_model, tokenizer)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


# drafter.json

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
TEXTS = ("name", "target", "target_revision", "tokenizer_sha256", "pair")
NO_TEXT = ANYTHING.filter(lambda value: not isinstance(value, str))
NO_OBJECT = ANYTHING.filter(lambda value: not isinstance(value, dict))
NO_PLAIN_NAME = st.sampled_from(
    ["../x", "/etc/passwd", "a/b", "..", ".", "", ".ssh", "C:\\x", "x\n", "custom_generate/x.py"]
)
SPOILT_FIELDS = st.one_of(
    st.tuples(st.sampled_from(TEXTS), NO_TEXT),
    st.tuples(st.sampled_from(("loop", "files", "training", "versions", "adapter_of", "weights")), NO_OBJECT),
    st.tuples(st.just("draft_length"), ANYTHING.filter(lambda value: type(value) is not int or value < 1)),
    st.tuples(st.just("schema_version"), ANYTHING.filter(lambda value: value != 1)),
    st.tuples(st.sampled_from(("files", "weights")), st.dictionaries(NO_PLAIN_NAME, st.just("0" * 64), min_size=1)),
    st.tuples(
        st.sampled_from(("files", "weights")),
        st.dictionaries(st.sampled_from((TABLE, "model.safetensors")), ANYTHING, min_size=1),
    ),
    st.tuples(st.just("pair"), st.text(max_size=8)),
    st.tuples(st.text(min_size=1, max_size=8).map(lambda name: f"x{name}"), ANYTHING),
    st.tuples(
        st.just("adapter_of"),
        st.dictionaries(st.sampled_from(("drafter", "revision", "path")), st.text(max_size=8), min_size=1),
    ),
)


@examples(80)
@given(spoilt=SPOILT_FIELDS)
def test_malformed_description_is_refused(
    copied: Callable[[], Path],
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    spoilt: tuple[str, Any],
) -> None:
    """What any repository on the Hub may hold must not end in a traceback, nor open what lies outside of it."""
    folder = copied()
    values = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    (folder / FILE_NAME).write_text(json.dumps(values | dict([spoilt])), encoding="utf-8")
    check_refused(folder, target_model, tokenizer)


SETTINGS = tuple(LoopSettings().to_dict())
NO_LIST_OF_TIMES = st.lists(st.floats(max_value=0) | st.text(max_size=2), max_size=3)
NO_TIME = st.floats(max_value=-1.0) | st.text(max_size=2) | st.just(float("nan"))
SOURCES = ("lookup", "ngram", "network")
SPOILT_SETTINGS = st.one_of(
    st.tuples(
        st.sampled_from(SETTINGS), st.none() | st.text(max_size=4) | st.just([{}]) | st.just({"cpu": [None, 1]})
    ),
    st.tuples(
        st.sampled_from(("longest_draft", "tokens_per_pass", "network_gain")),
        st.sampled_from([-1, 1e300, 10**400, float("nan"), float("inf"), [], {}, "1"]),
    ),
    st.tuples(
        st.sampled_from(("calibration", "sampling_calibration")),
        st.dictionaries(st.sampled_from(SOURCES), st.lists(st.floats(), max_size=3)),
    ),
    st.tuples(
        st.sampled_from(("pass_milliseconds", "sampling_pass_milliseconds")),
        st.dictionaries(st.just("cpu"), NO_LIST_OF_TIMES, min_size=1),
    ),
    st.tuples(st.just("step_milliseconds"), st.dictionaries(st.text(max_size=3), NO_TIME, min_size=1)),
    st.tuples(
        st.just("sources"),
        st.lists(SCALARS, min_size=1).filter(lambda value: not set(map(str, value)) <= set(SOURCES)),
    ),
    st.tuples(st.just("int8"), ANYTHING.filter(lambda value: not isinstance(value, bool))),
    st.tuples(st.text(min_size=1, max_size=5).map(lambda name: f"x{name}"), ANYTHING),
)


@examples(60)
@given(spoilt=SPOILT_SETTINGS)
def test_malformed_settings_are_refused(
    copied: Callable[[], Path],
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    spoilt: tuple[str, Any],
) -> None:
    """A setting of the wrong kind, met in the midst of an answer, would end it."""
    folder = copied()
    values = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    values["loop"] |= dict([spoilt])
    (folder / FILE_NAME).write_text(json.dumps(values), encoding="utf-8")
    check_refused(folder, target_model, tokenizer)


# The other files

FILES = ("config.json", "model.safetensors", VOCABULARY, TABLE)
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 1 << 20)),
    st.tuples(st.just("flip"), st.integers(0, 1 << 20)),
    st.tuples(st.just("insert"), st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("replace"), st.binary(max_size=40)),
)


def spoil(path: Path, damage: tuple[str, Any]) -> None:
    content, (kind, what) = bytearray(path.read_bytes()), damage
    if kind == "cut":
        content = content[: what % len(content)]
    elif kind == "flip":
        # Of the longer files the head is the part that is read as something else than numbers.
        content[what % min(len(content), 400)] ^= 1 + what % 255
    elif kind == "insert":
        content[8:8] = what
    else:
        content = what
    path.write_bytes(content)


@examples(60)
@given(name=st.sampled_from([name for name in FILES if name != TABLE]), damage=DAMAGE)  # that one is done without
def test_altered_files_are_refused(
    copied: Callable[[], Path],
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    damage: tuple[str, Any],
) -> None:
    """Whatever became of a file, its hash tells."""
    folder = copied()
    spoil(folder / name, damage)
    check_refused(folder, target_model, tokenizer)


@examples(120)
@given(
    name=st.sampled_from((*FILES, "tokenizer.json", "tokenizer_config.json", "generation_config.json")), damage=DAMAGE
)
@pytest.mark.filterwarnings("ignore")
def test_files_that_were_published_malformed_are_refused_or_harmless(
    copied: Callable[[], Path],
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    damage: tuple[str, Any],
) -> None:
    """Somebody who alters a file can alter its hash too, or leave it out: still no traceback.

    Weights with other numbers are a drafter too, whose drafts the target refuses.
    """
    folder = copied()
    spoil(folder / name, damage)
    values = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    values["weights"] = {}
    values["files"] = {file: hash_file(folder / file) for file in values["files"]}
    # Another tokenizer's hash has the drafter's own tokenizer read, to say where the two differ.
    values["tokenizer_sha256"] = "0" * 64 if name.startswith("tokenizer") else values["tokenizer_sha256"]
    (folder / FILE_NAME).write_text(json.dumps(values), encoding="utf-8")
    refusal = refusal_of(lambda: load_drafter(str(folder), target_model, tokenizer))
    assert refusal is not None or not name.startswith("tokenizer")
    assert "\n" not in (refusal or "")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_pickle_is_not_read(
    copied: Callable[[], Path], target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    """It can run anything; where it stands in place of the weights, there are none."""
    folder = copied()
    (folder / "model.safetensors").rename(folder / name)
    values = json.loads((folder / FILE_NAME).read_text(encoding="utf-8")) | {"weights": {}}
    (folder / FILE_NAME).write_text(json.dumps(values), encoding="utf-8")
    check_refused(folder, target_model, tokenizer)


# Cards and results

LINES = st.text(max_size=12) | st.sampled_from(
    ["---", "a: b", "\n---\n", "| x |", "{{ 1 }}", "- x", "#", "\x00", "\u2028"]
)


@examples(60)
@given(licence=LINES, notes=LINES, facts=st.dictionaries(LINES, ANYTHING | LINES, max_size=3))
def test_card_is_well_formed_whatever_it_says(published: Path, licence: str, notes: str, facts: dict) -> None:
    """A fact of training, or a note by hand, must not end the metadata or break off the card."""
    description = DrafterDescription.read(published)
    description.training["finetune"] = facts
    text = render_card(description, {}, "alice/x", licence, notes)
    data, errors = read_card(text.encode())
    assert errors == []
    assert data["base_model"] == "tests/tiny-target"
    assert RepoCard(text).data.to_dict()["pipeline_tag"] == "text-generation"


SPOILT_RESULTS = st.one_of(
    st.tuples(st.sampled_from(("schema_version", "provenance", "runs")), ANYTHING.filter(lambda value: value != 1)),
    st.tuples(st.just("provenance"), st.dictionaries(st.sampled_from(("drafter", "command")), ANYTHING)),
    st.tuples(st.just("runs"), st.lists(ANYTHING, min_size=1, max_size=2)),
)


@examples(40)
@given(spoilt=SPOILT_RESULTS)
def test_malformed_results_are_published_by_nobody(
    tmp_path: Path, published: Path, target: Target, spoilt: tuple[str, Any]
) -> None:
    """They are read before anything is written: nothing may stand there half."""
    run = RunArguments(pair="de-en", drafter_name=NAME, run_folder=str(published.parent / "run"))
    results = run.folder / "results.json"
    values = results_for(NAME, DrafterDescription.read(published).fingerprint())
    results.write_text(json.dumps(values | dict([spoilt])), encoding="utf-8")
    try:
        with pytest.raises(InputError) as caught:
            publish_run(run, target, "float32", PublishingArguments(to=str(tmp_path / "to")))
    finally:
        results.unlink()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()
