"""What settings are chosen on: self-distilled answers, and text that tables may be counted on too."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import runs_of
from drafter_trainer.corpora.questions import Question
from drafter_trainer.corpora.sources import TEXT_COLUMNS, read_source
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import check_target
from drafter_trainer.tuning.calibration import HeldOut

_CONTINUED, _CONTINUATION, _LEAST_TEXT = 32, 64, 8  # tokens
_COLUMNS = ["prompt_ids", "response_ids", "max_new_tokens", "temperature", "topk_ids", "topk_logprobs"]


def load_answers(folder: Path, target: Target, limit: int) -> tuple[list[list[int]], list[HeldOut], list[HeldOut]]:
    """Load the answers of a distillation.

    Args:
        target (`Target`): The target that must have given them.
        limit (`int`): Held-out answers of each kind at most, chosen by chance, always the same.
    Returns:
        `tuple` of the training answers, the held-out greedy ones, and the held-out ones at the highest temperature
        that was sampled at.
    """
    for split in ("train", "validation"):
        check_target(RowStore(folder / split), target)
    train = list(_responses(folder / "train"))
    held_out = [
        HeldOut(
            row["prompt_ids"],
            row["response_ids"],
            row["max_new_tokens"],
            row["temperature"],
            np.array(row["topk_ids"], np.int32),
            np.array(row["topk_logprobs"], np.float32),
        )
        for table in RowStore(folder / "validation").tables(_COLUMNS)
        for row in table.to_pylist()
        if row["topk_ids"] is not None and row["temperature"] is not None  # text was decoded at none
    ]
    greedy = [answer for answer in held_out if answer.temperature == 0]
    highest = max((answer.temperature for answer in held_out), default=0.0)
    if not train or not greedy:
        raise InputError(
            f"{folder} has {len(train)} answers and {len(greedy)} held-out greedy ones with log-probabilities: distil "
            "with temperatures 0 and more, and some validation prompts; teacher_forcing=True scores what has none"
        )
    sampled = [answer for answer in held_out if answer.temperature == highest > 0]
    # Shards are sorted by the lengths of the prompts.
    for answers in (greedy, sampled):
        random.Random(0).shuffle(answers)
    return train, greedy[:limit], sampled[:limit]


def answer_questions(
    target_model: PreTrainedModel,
    chat: ChatTokenizer,
    questions: Sequence[Question],
    max_new_tokens: int,
) -> list[HeldOut]:
    """Let the target answer questions greedily, all in one batch.

    Args:
        max_new_tokens (`int`): Length limit of an answer.
    """
    prompts = [chat.encode_prompt(question.prompt) for question in questions]
    return _answer(target_model, chat.tokenizer, prompts, 0.0, max_new_tokens)


def continue_texts(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[int]], limit: int
) -> tuple[list[HeldOut], list[HeldOut]]:
    """Let the target continue held-out texts: what settings are chosen on where it was asked nothing yet.

    It reads the first half of a text, 32 tokens of it at most, and goes on for 64 tokens.

    Args:
        limit (`int`): Continue so many at most.
    Returns:
        `tuple` of its continuations in greedy decoding, and at temperature 1.
    """
    prompts = [list(text[: min(len(text) // 2, _CONTINUED)]) for text in texts if len(text) >= _LEAST_TEXT][:limit]
    if not prompts:
        raise InputError(
            f"none of the {len(texts)} held-out texts has {_LEAST_TEXT} tokens: some hundred lines are needed, of "
            "which 2 % are held out, or a distillation"
        )
    greedy, sampled = (
        _answer(target_model, tokenizer, prompts, temperature, _CONTINUATION) for temperature in (0.0, 1.0)
    )
    return greedy, sampled


def _answer(
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    max_new_tokens: int,
) -> list[HeldOut]:
    unstored = dict.fromkeys(("source_id", "corpus", "pair", "target", "target_revision"), "")
    asked = [Request(tuple(ids), temperature, 0, max_new_tokens, **unstored) for ids in prompts]
    answers = TransformersEngine(target_model, tokenizer.pad_token_id).complete_batch(asked)
    return [
        HeldOut(
            list(request.prompt_ids),
            answer.response_ids,
            max_new_tokens,
            request.temperature,
            answer.topk_ids,
            answer.topk_logprobs,
        )
        for request, answer in zip(asked, answers)
    ]


def typical_prompt(answers: Sequence[HeldOut]) -> list[int]:
    """Return the prompt of median length."""
    return sorted((answer.prompt_ids for answer in answers), key=len)[len(answers) // 2]


@dataclass(frozen=True)
class TableTexts:
    """Text that n-gram tables may be counted on, besides completions.

    Args:
        read (callable): From a split, "train" or "validation", to the token ids of each text.
        facts (callable): Returns what is recorded of it, once it has been read.
    """

    read: Callable[[str], list[list[int]]]
    facts: Callable[[], dict[str, Any]]


def table_texts(data: Any, chat: ChatTokenizer) -> TableTexts:
    """Open text that a user of the library gives, or `None` for none; see `corpora.sources.read_source`."""
    if data is None:
        return TableTexts(lambda split: [], dict)
    source = read_source(data, TEXT_COLUMNS)
    return TableTexts(
        lambda split: [chat.encode_text(row["text"]) for row in source.read(split)],
        lambda: {"corpora": [source.facts]},
    )


def apart_from(texts: Sequence[Sequence[int]], held_out: Sequence[HeldOut]) -> list[Sequence[int]]:
    """Leave out the texts that hold 13 tokens in a row of a held-out completion.

    A sentence that settings are tried on may stand in a longer prompt of other rows. A table that was counted on its
    completion promises what it does not keep.
    """
    known = {run for answer in held_out for run in runs_of(tuple(answer.response_ids))}
    return [text for text in texts if known.isdisjoint(runs_of(tuple(text)))]


def _responses(folder: Path) -> Iterator[list[int]]:
    for table in RowStore(folder).tables(["response_ids"]):
        yield from table["response_ids"].to_pylist()
