"""What load_drafter reads out of a benchmark's results."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.results import DRAFTER, Headline, find_method, read_headline
from tests.hub.conftest import results_for

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
    assert read(tmp_path, results).acceptance.startswith("α = 0.43, 1.76 tokens per pass (translation de-en, ")


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
