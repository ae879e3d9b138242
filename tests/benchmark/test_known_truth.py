"""The benchmark finds what is known beforehand: from decoding to the results, nothing in between is replaced."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.summary import summarise_run
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.questions import Question
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.results import PLAIN
from tests.decoding.drafts import agreeing, set_draft_length

QUESTIONS = [Question(f"q{number}", f"Satz {number}", "") for number in range(2)]


@pytest.fixture
def endless(target_model: PreTrainedModel) -> PreTrainedModel:
    """The tiny target, which no end of text cuts short."""
    target_model.generation_config.eos_token_id = None
    return target_model


def measured(
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    draft_arguments: dict[str, Any],
    tokens: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure a method beside plain decoding; return the records and the method in the results."""
    methods = [Method(PLAIN), Method("method", 4, draft_arguments)]
    setting = Setting(0.0, 0, tokens)
    records = measure(target_model, ChatTokenizer(tokenizer), QUESTIONS, methods, setting, folder / "journal.jsonl")
    return records, summarise_run(records, methods, setting, {})["methods"][1]


def test_drafter_equal_to_its_target_yields_the_draft_and_one(endless, tokenizer, tmp_path) -> None:
    """Less than γ + 1 tokens in any round would be published as a worse drafter than it is."""
    arguments = {"assistant_model": set_draft_length(agreeing(endless), 4)}
    records, method = measured(endless, tokenizer, tmp_path, arguments, tokens=20)
    for record in records:
        rounds = [Round(**round_) for round_ in record["methods"]["method"]["rounds"]]
        assert rounds == 4 * [Round(4, 4, rejected=False)]
    assert method["mean_accepted_tokens"] == 5
    assert (method["alpha"], method["acceptance_rate"], method["acceptance_by_position"]) == (1, 1, [1, 1, 1, 1])
    assert method["losslessness"]["equal"] == 2


def test_planted_lossy_method_is_caught_where_it_begins(endless, tokenizer, tmp_path) -> None:
    """A method that may not say one of the target's words is faster for nothing and must not pass as lossless."""
    said = decode(endless, ChatTokenizer(tokenizer).encode_prompt(QUESTIONS[0].prompt), {}, 0.0, 0, 12).output_ids
    forbidden = said[3]
    _, method = measured(endless, tokenizer, tmp_path, {"suppress_tokens": [forbidden]}, tokens=12)
    assert method["losslessness"]["equal"] < 2
    first = method["losslessness"]["divergences"][0]
    assert (first["question_id"], first["position"]) == ("q0", said.index(forbidden))
    assert first["margin"] > 0
