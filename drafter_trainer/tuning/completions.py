"""The target's completions on which settings are tried and n-gram tables are counted."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.corpora.decontamination import runs_of
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import check_target

_PREFIX, _CONTINUATION, _LEAST_TEXT = 32, 64, 8  # tokens
_COLUMNS = ["prompt_ids", "response_ids", "max_new_tokens", "temperature", "topk_ids", "topk_logprobs"]


@dataclass(frozen=True)
class HeldOut:
    """A held-out completion."""

    prompt_ids: list[int]
    response_ids: list[int]
    max_new_tokens: int
    temperature: float  # 0 is greedy
    topk_ids: np.ndarray  # (tokens, k): the target's most likely ids at each position
    topk_logprobs: np.ndarray  # (tokens, k): at temperature 1, in nats

    def for_replay(self) -> tuple[list[int], list[int], int]:
        """Return prompt, completion and length limit, as `decoding.replay.replay` takes them."""
        return self.prompt_ids, self.response_ids, self.max_new_tokens

    def acceptance(self, position: int, token: int) -> float:
        """Return the probability that the target accepts a token for which q is 1.

        In sampling, it is p(token) within the top k, else 0. In greedy decoding, it is 1 for the completion's token.
        """
        if self.temperature == 0:
            return float(self.response_ids[position] == token)
        matches = np.flatnonzero(self.topk_ids[position] == token)
        return float(np.exp(self.topk_logprobs[position, matches[0]])) if len(matches) else 0.0


def load_completions(folder: Path, target: Target, limit: int) -> tuple[list[list[int]], list[HeldOut], list[HeldOut]]:
    """Load the completions that a target wrote in a distillation.

    Returns:
        `tuple` of the training completions, the held-out greedy completions, and the held-out completions at the
        highest sampling temperature. Held-out completions are a fixed random choice of at most `limit`.
    """
    for split in ("train", "validation"):
        check_target(RowStore(folder / split), target)
    tables = RowStore(folder / "train").tables(["response_ids"])
    train = [ids for table in tables for ids in table["response_ids"].to_pylist()]
    held_out = []
    for table in RowStore(folder / "validation").tables(_COLUMNS):
        for row in table.to_pylist():
            if row["topk_ids"] is not None and row["temperature"] is not None:  # scored text has no temperature
                ids, logprobs = np.array(row["topk_ids"], np.int32), np.array(row["topk_logprobs"], np.float32)
                held_out.append(HeldOut(**row | {"topk_ids": ids, "topk_logprobs": logprobs}))
    greedy = [completion for completion in held_out if completion.temperature == 0]
    highest = max((completion.temperature for completion in held_out), default=0.0)
    if not train or not greedy:
        raise InputError(
            f"{folder} has {len(train)} completions and {len(greedy)} held-out greedy ones with log-probabilities: "
            "distill with validation prompts, and with 0 among the temperatures; teacher_forcing=True scores rows "
            "without log-probabilities"
        )
    sampled = [completion for completion in held_out if completion.temperature == highest > 0]
    # Shards are sorted by prompt length: their first rows have the shortest prompts.
    for completions in (greedy, sampled):
        random.Random(0).shuffle(completions)
    return train, greedy[:limit], sampled[:limit]


def complete(
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    max_new_tokens: int,
) -> list[HeldOut]:
    """Complete prompts with the target, all in one batch."""
    unstored = dict.fromkeys(("source_id", "corpus", "pair", "target", "target_revision"), "")
    requests = [Request(tuple(ids), temperature, 0, max_new_tokens, **unstored) for ids in prompts]
    completed = TransformersEngine(target_model, tokenizer.pad_token_id).complete_batch(requests)
    return [
        HeldOut(list(ids), made.completion_ids, max_new_tokens, temperature, made.topk_ids, made.topk_logprobs)
        for ids, made in zip(prompts, completed)
    ]


def continue_texts(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[int]], limit: int
) -> tuple[list[HeldOut], list[HeldOut]]:
    """Continue the first half of held-out texts, 32 tokens at most, by 64 tokens: for tuning without a distillation.

    Returns:
        `tuple` of greedy continuations and of continuations at temperature 1.
    """
    prompts = [text[: min(len(text) // 2, _PREFIX)] for text in texts if len(text) >= _LEAST_TEXT][:limit]
    if not prompts:
        raise InputError(
            f"none of the {len(texts)} held-out texts has {_LEAST_TEXT} tokens: give some hundred lines, of which 2 % "
            "are held out, or distill"
        )
    temperatures = tqdm((0.0, 1.0), unit="batch", desc="continuing texts")
    continued = [
        complete(target_model, tokenizer, prompts, temperature, _CONTINUATION) for temperature in temperatures
    ]
    return continued[0], continued[1]


def typical_prompt(completions: Sequence[HeldOut]) -> list[int]:
    """Return the prompt of median length."""
    return sorted((completion.prompt_ids for completion in completions), key=len)[len(completions) // 2]


def without_held_out(texts: Sequence[Sequence[int]], held_out: Sequence[HeldOut]) -> list[Sequence[int]]:
    """Leave out texts that contain 13 consecutive tokens of a held-out completion.

    A table that was counted on these texts would look better than it is.
    """
    held_out_runs = {run for completion in held_out for run in runs_of(tuple(completion.response_ids))}
    return [text for text in texts if held_out_runs.isdisjoint(runs_of(tuple(text)))]
