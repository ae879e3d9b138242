"""Results files: written, read and rejected, and the speed that load_drafter reads from them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.results import (
    DRAFTER,
    SCHEMA,
    SCHEMA_VERSION,
    Headline,
    check_results,
    find_method,
    read_headline,
    read_results,
    write_results,
)
from tests.benchmark.made import make_results, make_run
from tests.hub.conftest import results_for

ROOT = Path(__file__).parents[1]
RESULTS = make_results(make_run({"plain": [2.0] * 3, "drafter": [1.0] * 3}))


def method(results: dict[str, Any]) -> dict[str, Any]:
    return results["runs"][0]["methods"][1]


def test_schema_is_one() -> None:
    """A mistyped keyword of JSON Schema is ignored, and checks nothing."""
    Draft202012Validator.check_schema(SCHEMA)
    known = set(Draft202012Validator.VALIDATORS) | {"$schema", "$defs", "title", "description"}
    stack = [SCHEMA, *SCHEMA["$defs"].values()]
    while stack:
        definition = stack.pop()
        assert set(definition) <= known, set(definition) - known
        stack += definition.get("properties", {}).values()
        stack += definition.get("anyOf", [])
        stack += [definition[key] for key in ("items", "additionalProperties") if key in definition]


@pytest.mark.parametrize("path", sorted(ROOT.glob("hub_cards/**/results.json")), ids=lambda path: path.parts[-2])
def test_committed_results_stay_readable(path: Path) -> None:
    """Cards, README and docs are rendered from them for as long as they are not measured anew."""
    assert read_results(path)["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda results: results.update(schema_version=0), r"has schema version 0, expected 1: run make bench again"),
        (lambda results: results.pop("provenance"), r"f\.json, \$: 'provenance' is a required property"),
        (lambda results: results["runs"][0].pop("dtype"), r"\$\.runs\[0\]: 'dtype' is a required property"),
        (lambda results: method(results).update(seconds="1.0"), r"\.methods\[1\]\.seconds: '1\.0' is not of type"),
        (lambda results: method(results).update(slower_share=3), r"\.slower_share: 3 is greater than the maximum"),
        (lambda results: method(results)["prompts"][2].update(tokens=1.5), r"\.prompts\[2\]\.tokens: 1\.5 is not"),
    ],
)
def test_malformed_results_are_refused(spoil: Callable[[dict[str, Any]], Any], message: str) -> None:
    """A table from a file that is read wrongly would state wrong numbers; one line must say what is wrong where."""
    results = copy.deepcopy(RESULTS)
    spoil(results)
    with pytest.raises(InputError, match=message) as caught:
        check_results(results, "f.json")
    assert "make bench" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "schema version None"), ("{", "is not JSON"), ("", "is not JSON"), (None, "no such file")],
)
def test_file_that_holds_no_results_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    """A mistyped file name must not end in a traceback."""
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_written_is_read_with_a_key_of_a_later_release(tmp_path: Path) -> None:
    """A figure lost on the way is missing in every table; a new key must not make older releases refuse the file."""
    results = copy.deepcopy(RESULTS)
    method(results)["carbon"] = {"grams": 50.0}
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results


DESCRIPTION = DrafterDescription("tiny", "org/target", "1", "0" * 64, "de-en", 5)


@pytest.fixture
def results() -> dict[str, Any]:
    """Results as bench.py writes them, of this drafter as it is."""
    return copy.deepcopy(results_for("tiny", DESCRIPTION.fingerprint()))  # tests spoil what others share


def read(folder: Path, results: Any) -> Headline | str:
    path = folder / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    return read_headline(path, DESCRIPTION.fingerprint())


def test_speed_is_said_with_its_setting(tmp_path: Path, results: dict[str, Any]) -> None:
    """A speed without its interval, machine and setting is a promise that nobody can hold."""
    assert read(tmp_path, results).speed == (
        "1.23 times as fast as plain decoding (95 %: 1.11 to 1.34), measured with tests/tiny-target@1 on a processor "
        "(2 threads), torch 2.13.0, transformers 5.23.0: translation de-en, 8 questions of sample, greedy, float32, "
        "batch 1, at most 128 new tokens in drafts of at most 5"
    )
    assert read(tmp_path, results).acceptance.startswith("α = 0.43, 1.76 tokens per target pass (translation de-en, ")


def test_greedy_run_is_the_one_that_is_said(tmp_path: Path, results: dict[str, Any]) -> None:
    """Whichever run stands first would be said otherwise, and sampling is slower; alone it is said to be sampling."""
    (run,) = results["runs"]
    sampling = json.loads(json.dumps(run | {"temperature": 1.0}))
    find_method(sampling, DRAFTER)["speedup"] = {"value": 0.9, "low": 0.8, "high": 1.0}
    assert read(tmp_path, results | {"runs": [sampling, run]}).speed.startswith("1.23 times")
    alone = read(tmp_path, results | {"runs": [sampling]})
    assert alone.speed.startswith("0.90 times")
    assert "temperature 1, " in alone.speed


def test_results_of_the_drafter_before_are_not_said(tmp_path: Path, results: dict[str, Any]) -> None:
    """Tuned again, a drafter has another speed than its old results say."""
    results["provenance"]["drafter_fingerprint"] = "0" * 16
    assert "has not been measured since it changed" in read(tmp_path, results)


def drafter_of(results: dict[str, Any]) -> dict[str, Any]:
    return find_method(results["runs"][0], DRAFTER)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda results: results.update(runs=[]),
        lambda results: drafter_of(results).update(name="other"),
        lambda results: drafter_of(results)["speedup"].update(value="fast\nvery"),
        lambda results: results["provenance"].update(device=None),
        *(b"", b"[]", b"null", b"\xff\xfe", b'{"provenance": 3}', b'{"provenance": {}}'),
    ],
)
def test_results_that_cannot_be_read_are_said_to_be(tmp_path, results, spoil) -> None:
    """The drafter works without them: a traceback from a file of numbers would stop what they only describe."""
    if isinstance(spoil, bytes):
        (tmp_path / "results.json").write_bytes(spoil)
        reason = read_headline(tmp_path / "results.json", DESCRIPTION.fingerprint())
    else:
        spoil(results)
        reason = read(tmp_path, results)
    assert reason.startswith("comes with a results.json that cannot be read (")
    assert "\n" not in reason
