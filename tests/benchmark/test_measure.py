"""The benchmark's loop over questions: interleaving, the journal, and what it catches."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.benchmark import measure as module
from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import DRAFTER, PLAIN, PROMPT_LOOKUP, Method, build_methods
from drafter_trainer.benchmark.report import speedup_tables
from drafter_trainer.benchmark.results import SCHEMA_VERSION, check_results, read_results, summarise_run, write_results
from drafter_trainer.corpora.questions import Question
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import Decoding
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.repository import build_network
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.errors import InputError
from tests.conftest import make_model

QUESTIONS = [Question(f"q{number}", f"Translate German to English: Satz {number}", "") for number in range(4)]
GREEDY = Setting(0.0, 0, 12)
DESCRIPTION = {
    "pair": "de-en",
    "task": "translation",
    "draft_length": 3,
    "dtype": "float32",
    "questions": {"source": "made up", "count": 4, "sha256": "0"},
}


def scripted(monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[list[int], float]]) -> list[str]:
    """Replace decoding by answers of known ids and times; returns the order in which methods were asked."""
    order: list[str] = []

    def decode(target_model, prompt_ids, draft_arguments, temperature, seed, max_new_tokens) -> Decoding:
        name = draft_arguments.get("name", PLAIN)
        order.append(name)
        ids, seconds = answers[name]
        return Decoding(ids, seconds, [Round(0, 0, False)] * len(ids))

    monkeypatch.setattr(module, "decode", decode)
    return order


def results_of(records: list[dict], methods: list[Method], setting: Setting = GREEDY) -> dict:
    return {
        "schema_version": SCHEMA_VERSION,
        "provenance": {
            "device": {"name": "test", "runtime": "1 thread"},
            "versions": {"torch": "0", "transformers": "0"},
        },
        "runs": [summarise_run(records, methods, setting, DESCRIPTION)],
    }


def looping(drafter: PreTrainedModel, longest_draft: int = 3) -> PreTrainedModel:
    """Let a drafter draft with the loop, with lookup and its network."""
    settings = LoopSettings(sources=["lookup", "network"], longest_draft=longest_draft)
    network = build_network(drafter, None, int8=False)
    attach_loop(drafter, DraftingLoop(network, None, settings, drafter.device, drafter.config.vocab_size))
    return drafter


def test_every_method_runs_and_is_lossless(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Greedy output of a method must be plain decoding's, and the drafter equal to its target must accept all."""
    drafter = looping(make_model(tokenizer))
    methods = build_methods(drafter, make_model(tokenizer, layers=1), [4, 2], ["lookup"], stock_draft_length=2)
    records = measure(target_model, tokenizer, QUESTIONS, methods, GREEDY, tmp_path / "journal.jsonl")
    results = results_of(records, methods)
    path = tmp_path / "results.json"
    write_results(results, path)
    assert read_results(path) == json.loads(json.dumps(results))
    by_name = {method["name"]: method for method in results["runs"][0]["methods"]}
    assert all(method["losslessness"]["equal"] == 4 for method in by_name.values())
    assert by_name["drafter without lookup"]["alpha"] == 1.0
    assert by_name[PLAIN]["target_passes"] == by_name[PLAIN]["tokens"]
    assert by_name[PLAIN]["acceptance_by_position"] == []
    assert by_name[DRAFTER]["acceptance_by_position"][0] <= 1.0
    tables = speedup_tables(results)
    assert all(f"| {name}" in tables for name in by_name)


def test_sleeping_method_is_timed_right(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that takes twice the time for the same tokens has a speedup of one half."""
    scripted(monkeypatch, {PLAIN: ([7, 8, 9], 1.0), "sleeps": ([7, 8, 9], 2.0)})
    methods = [Method(PLAIN), Method("sleeps", 2, {"name": "sleeps"})]
    records = measure(target_model, tokenizer, QUESTIONS, methods, GREEDY, tmp_path / "journal.jsonl")
    slow = results_of(records, methods)["runs"][0]["methods"][1]
    assert slow["speedup"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert slow["slower_share"] == 1.0


def test_planted_lossy_method_is_caught(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that changes the output must show, with the place where it left plain decoding."""
    scripted(monkeypatch, {PLAIN: ([7, 8, 9], 1.0), "lossy": ([7, 9, 9], 0.5), "short": ([7, 8], 0.5)})
    methods = [Method(PLAIN), Method("lossy", 2, {"name": "lossy"}), Method("short", 2, {"name": "short"})]
    records = measure(target_model, tokenizer, QUESTIONS, methods, GREEDY, tmp_path / "journal.jsonl")
    results = results_of(records, methods)
    _, lossy, short = results["runs"][0]["methods"]
    assert lossy["losslessness"]["equal"] == 0
    assert {entry["position"] for entry in lossy["losslessness"]["divergences"]} == {1}
    assert {entry["position"] for entry in short["losslessness"]["divergences"]} == {2}
    assert "0/4" in speedup_tables(results)


def test_looping_prompts_are_told_apart(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop is drafted easily; a speedup that rests on loops must show without them."""
    scripted(monkeypatch, {PLAIN: ([7] * 20, 1.0), "fast": ([7] * 20, 0.5)})
    methods = [Method(PLAIN), Method("fast", 2, {"name": "fast"})]
    records = measure(target_model, tokenizer, QUESTIONS, methods, GREEDY, tmp_path / "journal.jsonl")
    plain, fast = results_of(records, methods)["runs"][0]["methods"]
    assert plain["looping_share"] == 1.0
    assert fast["speedup"]["value"] == 2.0
    assert fast["speedup_without_loops"] is None


def test_methods_take_turns(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slows down in the course of a run must slow all methods down."""
    order = scripted(monkeypatch, {PLAIN: ([7], 1.0), "other": ([7], 1.0)})
    methods = [Method(PLAIN), Method("other", 2, {"name": "other"})]
    measure(target_model, tokenizer, QUESTIONS, methods, GREEDY, tmp_path / "journal.jsonl")
    warm_up, timed = order[:2], order[2:]
    assert warm_up == [PLAIN, "other"]
    assert timed == [PLAIN, "other", "other", PLAIN, PLAIN, "other", "other", PLAIN]


def test_interrupted_run_goes_on(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed within a line asks that question again, and no other."""
    order = scripted(monkeypatch, {PLAIN: ([7], 1.0)})
    journal = tmp_path / "journal.jsonl"
    whole = measure(target_model, tokenizer, QUESTIONS, [Method(PLAIN)], GREEDY, journal)
    journal.write_bytes(journal.read_bytes()[:-20])
    order.clear()
    assert measure(target_model, tokenizer, QUESTIONS, [Method(PLAIN)], GREEDY, journal) == whole
    assert len(order) == 2  # the warm-up and the last question
    assert measure(target_model, tokenizer, QUESTIONS, [Method(PLAIN)], GREEDY, journal) == whole
    assert len(order) == 2


def test_settings_share_a_journal_and_nothing_else(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question asked greedily is not yet asked with a seed, and its time is no sample of it."""
    scripted(monkeypatch, {PLAIN: ([7], 1.0)})
    journal = tmp_path / "journal.jsonl"
    settings = [GREEDY, Setting(1.0, 0, 12), Setting(1.0, 1, 12)]
    for setting in settings * 2:
        records = measure(target_model, tokenizer, QUESTIONS[:2], [Method(PLAIN)], setting, journal)
        assert [record["question_id"] for record in records] == [question.question_id for question in QUESTIONS[:2]]
        assert {(record["temperature"], record["seed"]) for record in records} == {(setting.temperature, setting.seed)}
    assert len(journal.read_text(encoding="utf-8").splitlines()) == 6


def test_prompt_beyond_the_context_is_named(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Positions beyond the context give garbage without an error."""
    long = Question("long", "Wort " * 600, "")
    with pytest.raises(InputError, match=r"question long: .* pass the target's context of 512"):
        measure(target_model, tokenizer, [long], [Method(PLAIN)], GREEDY, tmp_path / "journal.jsonl")


def test_prompt_lookup_drafts_as_told(tokenizer: PreTrainedTokenizerFast) -> None:
    """The table states the draft length that was used."""
    drafter = looping(make_model(tokenizer, layers=1), longest_draft=6)
    methods = {method.name: method for method in build_methods(drafter, None, [4])}
    assert methods[PROMPT_LOOKUP].draft_arguments == {"prompt_lookup_num_tokens": 4}
    assert [method.draft_length for method in methods.values()] == [0, 4, 6]
    several = build_methods(drafter, None, [4, 9], stock_draft_length=2)
    assert [(method.name, method.draft_length) for method in several[1:4]] == [
        ("prompt lookup, 4", 4),
        ("prompt lookup, 9", 9),
        ("drafter, stock loop", 2),
    ]


def test_a_source_that_is_not_asked_is_not_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    """A table with a method that equals the drafter would say that a source is worth nothing."""
    methods = build_methods(looping(make_model(tokenizer, layers=1)), None, [4], ["ngram", "network"])
    assert [method.name for method in methods] == ["plain", "prompt lookup", "drafter without network", "drafter"]


def test_each_source_may_draft_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    """What a source is worth by itself is not seen from what is lost without it."""
    drafter = looping(make_model(tokenizer, layers=1))
    methods = build_methods(drafter, None, [4], alone=["lookup", "network"])
    assert [method.name for method in methods][2:] == ["drafter, lookup alone", "drafter, network alone", "drafter"]
    assert [loop_of(method.draft_arguments["assistant_model"]).settings.sources for method in methods[2:]] == [
        ["lookup"],
        ["network"],
        ["lookup", "network"],
    ]
    with pytest.raises(InputError, match="no n-gram table to draft alone: leave ngram out of --alone"):
        build_methods(drafter, None, [4], alone=["ngram"])


def test_lossy_method_is_marked_where_it_samples(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A speedup that is bought with another distribution must not stand beside the others unmarked."""
    scripted(monkeypatch, {PLAIN: ([7, 8, 9], 1.0), "typical": ([7, 8, 9], 0.5)})
    methods = [Method(PLAIN), Method("typical", 2, {"name": "typical"}, lossy=True)]
    for setting, cell in ((GREEDY, "4/4"), (Setting(1.0, 0, 12), "lossy")):
        records = measure(target_model, tokenizer, QUESTIONS, methods, setting, tmp_path / "journal.jsonl")
        results = results_of(records, methods, setting)
        row = next(line for line in speedup_tables(results).splitlines() if line.startswith("| typical"))
        assert f"| {cell} " in row
        assert [method["lossy"] for method in results["runs"][0]["methods"]] == [False, setting.temperature > 0]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "schema version None"),
        ({"schema_version": 0}, "schema version 0"),
        ({"schema_version": SCHEMA_VERSION}, "no provenance"),
        ({"schema_version": SCHEMA_VERSION, "provenance": {"a": 1}, "runs": [{"methods": []}]}, "a run lacks draft"),
    ],
)
def test_results_of_another_schema_are_refused(results: object, message: str) -> None:
    """A card rendered from a file that is read wrongly would state wrong numbers."""
    with pytest.raises(InputError, match=message):
        check_results(results, "results.json")
