"""The benchmark finds what is known beforehand: from decoding to the results, nothing in between is replaced."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.summary import summarise_run
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.questions import Question
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.results import PLAIN
from tests.decoding.drafts import agreeing, set_draft_length, successor_model

QUESTIONS = [Question(f"q{number}", f"Satz {number}", "") for number in range(2)]
SIZE = 16
COUNTING = [(token + 1) % SIZE for token in range(SIZE)]


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


def right_sometimes(chance: float, draft_length: int) -> PreTrainedModel:
    """Make a drafter that counts as its target does, each token with a chance of its own."""
    drafter = set_draft_length(successor_model(COUNTING), draft_length)
    generator = torch.Generator().manual_seed(0)

    def go_wrong(module: torch.nn.Module, args: tuple, output: Any) -> None:
        if torch.rand((), generator=generator) >= chance:
            output.logits = output.logits.roll(1, dims=-1)

    drafter.register_forward_hook(go_wrong)
    return drafter


@pytest.mark.parametrize(("chance", "draft_length"), [(0.8, 3), (0.5, 5)])
def test_scripted_acceptance_gives_the_closed_form(chance: float, draft_length: int) -> None:
    """(1 − α^(γ + 1)) / (1 − α) tokens for each pass (arXiv 2211.17192, equation 1), and no other α's."""
    drafter, target = right_sometimes(chance, draft_length), successor_model(COUNTING)
    rounds = []
    for _ in range(3):
        rounds += decode(target, [1], {"assistant_model": drafter}, 0.0, 0, 400).rounds
    # Near the limit less is drafted.
    yields = torch.tensor([round_.accepted + 1.0 for round_ in rounds if round_.drafted == draft_length])
    half = 2.58 * (yields.std() / len(yields) ** 0.5).item()  # 99 %
    distance = {
        claimed: abs(yields.mean().item() - (1 - claimed ** (draft_length + 1)) / (1 - claimed))
        for claimed in (chance, chance - 0.1, chance + 0.1)
    }
    assert distance[chance] < half
    assert min(distance[chance - 0.1], distance[chance + 0.1]) > half


def test_sleep_in_every_pass_is_in_the_time(endless, tokenizer, tmp_path, monkeypatch) -> None:
    """Work that the clock does not see, as of a device that is not waited for, would be speed for nothing."""
    pause, tokens, draft_length, now = 0.5, 20, 4, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    drafter = set_draft_length(agreeing(endless), draft_length)

    def pass_time(seconds: float) -> Callable[..., None]:
        def wait(module: torch.nn.Module, given: tuple) -> None:
            now[0] += seconds

        return wait

    endless.register_forward_pre_hook(pass_time(1.0))
    arguments = {"assistant_model": drafter}
    _, awake = measured(endless, tokenizer, tmp_path / "awake", arguments, tokens)
    drafter.register_forward_pre_hook(pass_time(pause))
    _, sleepy = measured(endless, tokenizer, tmp_path / "sleepy", arguments, tokens)
    # All but the warm-up of 16 tokens is timed: one pass of the drafter for each drafted token.
    drafted = sum(prompt["drafted"] for prompt in sleepy["prompts"])
    assert drafted == len(QUESTIONS) * tokens * draft_length // (draft_length + 1)
    assert sleepy["seconds"] - awake["seconds"] == pytest.approx(drafted * pause)
    assert sleepy["speedup"]["high"] < awake["speedup"]["low"]


def test_planted_lossy_method_is_caught_where_it_begins(endless, tokenizer, tmp_path) -> None:
    """A method that may not say one of the target's words is faster for nothing and must not pass as lossless."""
    said = decode(endless, ChatTokenizer(tokenizer).encode_prompt(QUESTIONS[0].prompt), {}, 0.0, 0, 12).output_ids
    forbidden = said[3]
    _, method = measured(endless, tokenizer, tmp_path, {"suppress_tokens": [forbidden]}, tokens=12)
    assert method["losslessness"]["equal"] < 2
    first = method["losslessness"]["divergences"][0]
    assert (first["question_id"], first["position"]) == ("q0", said.index(forbidden))
    assert first["margin"] > 0
