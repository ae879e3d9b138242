"""The benchmark of an engine, against servers with hand-written completions and counts."""

import json
import sys
from pathlib import Path

import pytest

from drafter_trainer.benchmark.report import report_tables, title
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import render_card
from drafter_trainer.pipeline import engine_benchmark
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.results import find_method, read_results
from drafter_trainer.serving import commands
from drafter_trainer.serving.commands import llamacpp_command

STAND_IN = str(Path(__file__).parent / "stand_in.py")
QUESTIONS = [{"prompt": "Hallo " * number, "reference": "Hello"} for number in range(1, 6)]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was started, by the method of drafting."""
    started: list[str] = []

    def command(python: str, target: str, config: dict) -> list[str]:
        return [sys.executable, STAND_IN, "vllm", "other" if config else "plain", json.dumps(config)]

    start = engine_benchmark.start_engine

    def noted(engine: str, target: str, command: tuple[str, ...], *more: object):
        started.append(json.loads(command[4]).get("speculative_config", {}).get("method", "plain"))
        return start(engine, target, command, *more)

    monkeypatch.setattr(commands, "vllm_command", command)
    monkeypatch.setattr(engine_benchmark, "start_engine", noted)
    return started


def test_figures_of_an_engine_are_its_own(engines, published, target_folder, tmp_path) -> None:
    """Tokens per pass, acceptance and equality that are not the servers' would be published as theirs."""
    given = {"engine": "vllm", "output_dir": tmp_path, "requests_at_once": [1, 3], "max_new_tokens": 4}
    results = benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert engines == ["plain", "ngram", "draft_model", "custom_class"]
    assert read_results(tmp_path / "results.json") == results
    assert [run["engine"]["requests_at_once"] for run in results["runs"]] == [1, 3]
    for run in results["runs"]:
        assert [method["name"] for method in run["methods"]] == [
            "plain", "prompt lookup", "drafter, network alone", "drafter"
        ]  # fmt: skip
        plain, drafter = (find_method(run, name) for name in ("plain", "drafter"))
        # Five completions of four tokens; of four drafted tokens in each, two are accepted.
        assert (plain["tokens"], plain["target_passes"], plain["mean_accepted_tokens"]) == (20, 20, 1.0)
        assert (drafter["target_passes"], drafter["mean_accepted_tokens"]) == (10, 2.0)
        assert drafter["acceptance_rate"] == 0.5
        assert drafter["acceptance_by_position"] == [1.0]
        assert plain["acceptance_rate"] is None
        assert plain["tokens_per_second"] == pytest.approx(20 / plain["seconds"])
        assert plain["losslessness"]["equal"] == 5
    first = find_method(results["runs"][0], "drafter")["losslessness"]
    assert (first["equal"], first["divergences"][0]["position"]) == (4, 2)
    assert first["divergences"][0]["margin"] == 0.25
    tables = report_tables(results)
    assert "3 requests at once in vllm 0.32.0" in tables
    assert "4/5" in tables
    assert "batch 1" not in title(results, results["runs"][0])
    assert (tmp_path / "report.html").is_file()
    card = render_card(DrafterDescription.read(published), {"engines/vllm/results.json": results}, "me/x", None)
    assert "| German to English | translation | greedy, 3 requests at once in vllm 0.32.0 |" in card
    assert "batch size 1: nothing follows" not in card.lower()
    # Done before, it is not done again.
    assert benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given) == results
    assert len(engines) == 4


def test_interrupted_benchmark_goes_on_with_the_next_server(
    engines: list[str], published: Path, target_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server takes minutes to start: what was measured is not measured again."""
    given = {"engine": "vllm", "output_dir": tmp_path, "requests_at_once": [2], "max_new_tokens": 4}
    measure = engine_benchmark.measure_server

    def broken(client, name, *more):
        if name != "plain":
            raise KeyboardInterrupt
        return measure(client, name, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(engine_benchmark, "measure_server", broken)
        benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert engines == ["plain", "ngram"]
    benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert engines[2:] == ["ngram", "draft_model", "custom_class"]


def test_llamacpp_is_started_with_what_each_method_drafts() -> None:
    """A wrong command would be measured under the name of another method."""
    lengths = {"whole": 8, "network": 3}
    methods = commands.engine_methods("llamacpp", "t.gguf", "drafter", "stock", lengths, [5, 9], drafter_gguf="d.gguf")
    expected = {
        "plain": (0, {}),
        "prompt lookup, 5": (5, {"ngram_length": 5}),
        "prompt lookup, 9": (9, {"ngram_length": 9}),
        "drafter, network alone": (3, {"drafter_gguf": "d.gguf", "draft_length": 3}),
        "drafter": (8, {"drafter_gguf": "d.gguf", "draft_length": 3, "ngram_length": 8}),
    }
    assert {each.name: (each.draft_length, [*each.command]) for each in methods} == {
        name: (length, llamacpp_command("t.gguf", **given)) for name, (length, given) in expected.items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "ollama"}, "engine must be vllm or llamacpp, got ollama"),
        ({"requests_at_once": [0]}, r"numbers from 1 on, got \[0\]"),
        ({"engine": "llamacpp"}, "name the target's file as target_gguf"),
        ({"max_new_tokens": 100_000}, "the longest question and its completion take"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_server_starts(
    engines: list[str], published: Path, target_folder: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    """Found out later it costs the minutes in which the servers start."""
    given = {"engine": "vllm", "output_dir": tmp_path, "max_new_tokens": 4} | changes
    with pytest.raises(InputError, match=message):
        benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert engines == []
