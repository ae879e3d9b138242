"""Results files: what is written can be read, and what cannot be rendered is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from drafter_trainer.errors import InputError
from drafter_trainer.results import SCHEMA, SCHEMA_VERSION, check_results, read_results, write_results
from tests.benchmark.made import make_results, make_run

ROOT = Path(__file__).parents[1]
RESULTS = make_results(make_run({"plain": [2.0] * 3, "drafter": [1.0] * 3}))


def method(results: dict[str, Any]) -> dict[str, Any]:
    return results["runs"][0]["methods"][1]


def test_written_is_read(tmp_path: Path) -> None:
    """A figure lost on the way would be missing in every table."""
    path = tmp_path / "results.json"
    write_results(RESULTS, path)
    assert read_results(path) == RESULTS


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


def test_key_of_a_later_release_is_let_through() -> None:
    """A new optional key must not make every older release refuse the file."""
    results = json.loads(json.dumps(RESULTS))
    method(results)["carbon"] = {"grams": 50.0}
    check_results(results, "f.json")
