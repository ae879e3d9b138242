"""The loop over questions: interleaving, the journal, and the detection of lossy methods."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.benchmark import measure as module
from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import Method, build_methods
from drafter_trainer.benchmark.report import speedup_tables
from drafter_trainer.benchmark.summary import summarize_run
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.questions import Question
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import Decoding, decode
from drafter_trainer.errors import InputError
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP
from tests.benchmark.made import DESCRIPTION, make_results
from tests.conftest import make_model
from tests.drafters.loop.conftest import make_settings, with_loop

QUESTIONS = [Question(f"q{number}", f"Translate German to English: Satz {number}", "") for number in range(4)]
GREEDY = Setting(0.0, 0, 12)
TWO_METHODS = [Method(PLAIN), Method("other", 2, {"name": "other"})]


def scripted(
    monkeypatch: pytest.MonkeyPatch, outputs: dict[str, tuple[list[int], float | Iterator[float]]]
) -> list[tuple[str, list[int]]]:
    """Replace decoding by outputs of known ids and times; return the calls in order, as method and prompt."""
    asked: list[tuple[str, list[int]]] = []

    def decode(target_model, prompt_ids, draft_arguments, temperature, seed, max_new_tokens) -> Decoding:
        name = draft_arguments.get("name", PLAIN)
        asked.append((name, list(prompt_ids)))
        ids, seconds = outputs[name]
        took = seconds if isinstance(seconds, float) else next(seconds)
        return Decoding(ids, took, [Round(0, 0, False)] * len(ids), took / 4, took / 2, took / 2)

    monkeypatch.setattr(module, "decode", decode)
    return asked


def results_of(records: list[dict], methods: list[Method], setting: Setting = GREEDY) -> dict:
    return make_results(summarize_run(records, methods, setting, DESCRIPTION))


def test_every_method_runs_and_is_lossless(target_model, tokenizer, tmp_path) -> None:
    """Greedy output of a method must be plain decoding's, and the drafter equal to its target must accept all."""
    drafter = with_loop(make_model(tokenizer), make_settings(sources=["lookup", "network"], longest_draft=3))
    methods = build_methods(drafter, make_model(tokenizer, layers=1), [4, 2], ["lookup"], stock_draft_length=2)
    records = measure(target_model, ChatTokenizer(tokenizer), QUESTIONS, methods, GREEDY, tmp_path / "journal.jsonl")
    results = results_of(records, methods)
    by_name = {method["name"]: method for method in results["runs"][0]["methods"]}
    assert all(method["losslessness"]["equal"] == 4 for method in by_name.values())
    assert by_name["drafter without lookup"]["alpha"] == 1.0
    assert by_name[PLAIN]["target_passes"] == by_name[PLAIN]["tokens"]
    assert by_name[PLAIN]["acceptance_by_position"] == []
    tables = speedup_tables(results)
    assert all(f"| {name}" in tables for name in by_name)


def test_methods_take_turns(target_model, tokenizer, tmp_path, monkeypatch) -> None:
    """A machine that slows down during a run must slow all methods down."""
    asked = scripted(monkeypatch, {PLAIN: ([7], 1.0), "other": ([7], 1.0)})
    measure(target_model, ChatTokenizer(tokenizer), QUESTIONS, TWO_METHODS, GREEDY, tmp_path / "journal.jsonl")
    timed = [PLAIN, "other", "other", PLAIN, PLAIN, "other", "other", PLAIN]
    assert [name for name, _ in asked] == [PLAIN, "other", *timed]  # the warm-up comes first


def test_interrupted_run_goes_on(target_model, tokenizer, tmp_path, monkeypatch) -> None:
    """After a run was killed while it wrote a line, only that question is asked again."""
    asked = scripted(monkeypatch, {PLAIN: ([7], 1.0)})
    journal = tmp_path / "journal.jsonl"
    whole = measure(target_model, ChatTokenizer(tokenizer), QUESTIONS, [Method(PLAIN)], GREEDY, journal)
    journal.write_bytes(journal.read_bytes()[:-20])
    asked.clear()
    assert measure(target_model, ChatTokenizer(tokenizer), QUESTIONS, [Method(PLAIN)], GREEDY, journal) == whole
    assert len(asked) == 2  # the warm-up and the last question
    assert measure(target_model, ChatTokenizer(tokenizer), QUESTIONS, [Method(PLAIN)], GREEDY, journal) == whole
    assert len(asked) == 2


def conversation(*prompts: str) -> list[Question]:
    turns: list[Question] = []
    for number, prompt in enumerate(prompts, start=1):
        turns.append(Question(f"q/{number}", prompt, prompt, tuple(turns)))
    return turns


def test_later_turns_follow_plain_answers_for_every_method(target_model, tokenizer, tmp_path, monkeypatch) -> None:
    """If each method followed its own outputs, methods would be timed on different prompts."""
    words = {PLAIN: tokenizer("Guten Tag")["input_ids"], "other": tokenizer("etwas anderes")["input_ids"]}
    asked = scripted(monkeypatch, {name: (ids, 1.0) for name, ids in words.items()})
    turns, journal = conversation("Hallo", "Und nun?"), tmp_path / "journal.jsonl"
    records = measure(target_model, ChatTokenizer(tokenizer), turns, TWO_METHODS, GREEDY, journal)
    first = "<|user|>Hallo<|end|><|assistant|>"
    second = "<|user|>Hallo<|end|><|assistant|>Guten Tag<|end|><|user|>Und nun?<|end|><|assistant|>"
    timed = [(name, tokenizer.decode(ids)) for name, ids in asked[2:]]
    assert timed == [(PLAIN, first), ("other", first), ("other", second), (PLAIN, second)]
    assert [record["question_id"] for record in records] == ["q/1", "q/2"]
    assert [message["content"] for message in records[1]["chat"]] == ["Hallo", "Guten Tag", "Und nun?"]
    # After an interruption between the turns, the second turn follows the output in the journal.
    journal.write_text(journal.read_text(encoding="utf-8").splitlines(keepends=True)[0], encoding="utf-8")
    asked.clear()
    assert measure(target_model, ChatTokenizer(tokenizer), turns, TWO_METHODS, GREEDY, journal) == records
    assert [tokenizer.decode(ids) for _, ids in asked[2:]] == [second, second]


def test_conversation_beyond_the_context_is_named_before_anything_is_measured(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs of earlier turns fill the context too; the last conversation must not end hours of measuring."""
    asked = scripted(monkeypatch, {PLAIN: ([7], 1.0)})
    turns = conversation("Wort " * 60, "Wort " * 60)
    with pytest.raises(InputError, match=r"question q/2: .* and 400 new tokens exceed the target's context of 512"):
        measure(target_model, ChatTokenizer(tokenizer), turns, [Method(PLAIN)], Setting(0.0, 0, 200), tmp_path / "j")
    assert asked == []


def test_methods_have_their_draft_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    """The table must state the draft length that was used."""
    drafter = with_loop(make_model(tokenizer, layers=1), make_settings(sources=["lookup", "network"], longest_draft=6))
    methods = build_methods(drafter, None, [4])
    assert [(method.name, method.draft_length) for method in methods] == [(PLAIN, 0), (PROMPT_LOOKUP, 4), (DRAFTER, 6)]
    assert methods[1].draft_arguments == {"prompt_lookup_num_tokens": 4}
    lengths = {
        method.name: method.draft_length for method in build_methods(drafter, None, [4, 9], stock_draft_length=2)
    }
    assert lengths == {PLAIN: 0, "prompt lookup, 4": 4, "prompt lookup, 9": 9, "drafter, stock loop": 2, DRAFTER: 6}
    with pytest.raises(InputError, match="no n-gram table to draft alone: leave ngram out"):
        build_methods(drafter, None, [4], alone=["ngram"])  # it would be measured as plain decoding


def test_lossy_method_is_marked_where_it_samples(target_model, tokenizer, tmp_path, monkeypatch) -> None:
    """A speedup with another distribution must be marked in the table."""
    scripted(monkeypatch, {PLAIN: ([7, 8, 9], 1.0), "typical": ([7, 8, 9], 0.5)})
    methods = [Method(PLAIN), Method("typical", 2, {"name": "typical"}, lossy=True)]
    for setting, cell in ((GREEDY, "4/4"), (Setting(1.0, 0, 12), "lossy")):
        records = measure(target_model, ChatTokenizer(tokenizer), QUESTIONS, methods, setting, tmp_path / "j")
        results = results_of(records, methods, setting)
        row = next(line for line in speedup_tables(results).splitlines() if line.startswith("| typical"))
        assert f"| {cell} " in row
        assert [method["lossy"] for method in results["runs"][0]["methods"]] == [False, setting.temperature > 0]


def test_median_of_the_repeats_counts(target_model, tokenizer, tmp_path, monkeypatch) -> None:
    """One slow timing of three must not change the table, and all parts must be of one timing."""
    seconds = {PLAIN: iter([0.1, 9.0, 2.0, 3.0]), "other": iter([0.1, 1.0, 7.0, 1.5])}  # the warm-up comes first
    asked = scripted(monkeypatch, {name: ([7, 8], each) for name, each in seconds.items()})
    journal = tmp_path / "journal.jsonl"
    (record,) = measure(target_model, ChatTokenizer(tokenizer), QUESTIONS[:1], TWO_METHODS, GREEDY, journal, repeats=3)
    plain, other = record["methods"][PLAIN], record["methods"]["other"]
    assert (plain["seconds"], plain["draft_seconds"], plain["verification_seconds"]) == (3.0, 0.75, 1.5)
    assert (other["seconds"], other["repeat_seconds"]) == (1.5, [1.0, 7.0, 1.5])
    assert [name for name, _ in asked[2:]] == [PLAIN, "other", "other", PLAIN, PLAIN, "other"]


def test_lossy_output_is_caught_where_it_begins(target_model, tokenizer, tmp_path) -> None:
    """A method that suppresses one of the target's tokens must not be reported as lossless."""
    target_model.generation_config.eos_token_id = None
    chat = ChatTokenizer(tokenizer)
    plain = decode(target_model, chat.encode_prompt(QUESTIONS[0].prompt), {}, 0.0, 0, 12).output_ids
    methods = [Method(PLAIN), Method("lossy", 4, {"suppress_tokens": [plain[3]]})]
    records = measure(target_model, chat, QUESTIONS, methods, GREEDY, tmp_path / "journal.jsonl")
    losslessness = results_of(records, methods)["runs"][0]["methods"][1]["losslessness"]
    assert losslessness["equal"] < 4
    first = losslessness["divergences"][0]
    assert (first["question_id"], first["position"]) == ("q0", plain.index(plain[3]))
    assert first["margin"] > 0
