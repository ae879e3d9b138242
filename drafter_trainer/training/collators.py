"""Collators: they pad and place, and decide nothing; and what of a batch is supervised."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from drafter_trainer.drafters.loop.sources import cut_prompt

IGNORED = -100  # the label of what is not supervised, as in transformers
NOT_PREDICTED = ("input_ids", "attention_mask", "position_ids", "past_key_values")  # columns that the model reads


@dataclass
class SelfDistilledCollator:
    """Pad self-distilled rows on the right; what the target answered is supervised, its prompt is not.

    With `pad_id=0` and one stored id a position (k = 1), the rows

        {"prompt_ids": [5, 6], "response_ids": [7, 2], "topk_ids": [[7], [2]], "topk_logprobs": [[-.1], [-.2]]}
        {"prompt_ids": [5],    "response_ids": [2],    "topk_ids": [[2]],      "topk_logprobs": [[-.3]]}

    become

        input_ids      [[5, 6, 7, 2],                  [5, 2, 0, 0]]
        attention_mask [[1, 1, 1, 1],                  [1, 1, 0, 0]]
        labels         [[-100, -100, 7, 2],            [-100, 2, -100, -100]]
        topk_ids       [[[0], [0], [7], [2]],          [[0], [2], [0], [0]]]
        topk_logprobs  [[[0.], [0.], [-.1], [-.2]],    [[0.], [-.3], [0.], [0.]]]

    so that position t of labels and top k is about the token at t, given the tokens before it. Rows need no top k: a
    batch has these columns where all of its rows have them.

    Args:
        pad_id (`int`): Fills up `input_ids`; masked, so any id will do.
        max_length (`int`): Longer rows lose the end of their answer; no end token is added.
        prompt_window (`int`, *optional*): Number of last tokens of each prompt that are read, besides its
            first one; all of them if left out.
    """

    pad_id: int
    max_length: int
    prompt_window: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows to tensors of shape `(batch, longest)`, the top k of shape `(batch, longest, k)`.

        Where a row has no top k the batch has none: whether one is needed is the loss's to say.
        """
        if self.prompt_window:
            rows = [row | {"prompt_ids": cut_prompt(row["prompt_ids"], self.prompt_window)} for row in rows]
        sequences = [[*row["prompt_ids"], *row["response_ids"]][: self.max_length] for row in rows]
        shape = (len(rows), max(map(len, sequences)))
        input_ids = torch.full(shape, self.pad_id)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for index, (row, sequence) in enumerate(zip(rows, sequences)):
            start = min(len(row["prompt_ids"]), self.max_length)
            input_ids[index, : len(sequence)] = torch.tensor(sequence)
            attention_mask[index, : len(sequence)] = 1
            labels[index, start : len(sequence)] = torch.tensor(sequence[start:], dtype=torch.long)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if any(row.get("topk_logprobs") is None for row in rows):
            return batch
        return batch | self._place_topk(rows, sequences, shape)

    def _place_topk(
        self, rows: Sequence[dict[str, Any]], sequences: list[list[int]], shape: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        k = next((len(ids[0]) for ids in (row["topk_ids"] for row in rows) if len(ids)), 1)
        topk_ids = torch.zeros(*shape, k, dtype=torch.long)
        topk_logprobs = torch.zeros(*shape, k)
        for index, (row, sequence) in enumerate(zip(rows, sequences)):
            start = min(len(row["prompt_ids"]), self.max_length)
            tokens = len(sequence) - start
            place = slice(start, len(sequence))
            ids = np.array(row["topk_ids"][:tokens], dtype=np.int64).reshape(-1, k)
            logprobs = np.array(row["topk_logprobs"][:tokens], dtype=np.float32).reshape(-1, k)
            topk_ids[index, place] = torch.from_numpy(ids)
            topk_logprobs[index, place] = torch.from_numpy(logprobs)
        return {"topk_ids": topk_ids, "topk_logprobs": topk_logprobs}


def collate_packed(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack packed rows, all of one length; every token is supervised.

    Rows `[{"input_ids": [5, 6, 2]}, {"input_ids": [8, 2, 9]}]` become `input_ids` and `labels`, both
    `[[5, 6, 2], [8, 2, 9]]`. An id of -1 is no token and is not supervised.

    Returns:
        `dict` of tensors of shape `(batch, length)`.
    """
    input_ids = torch.tensor(np.array([row["input_ids"] for row in rows], dtype=np.int64))
    return {"input_ids": input_ids.clamp(min=0), "labels": input_ids.masked_fill(input_ids < 0, IGNORED)}


def supervised_tokens(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Choose what is supervised of a batch, shifted by one: the position before a token predicts it.

    Args:
        batch (`dict`): As a collator makes it.
    Returns:
        `tuple` of a mask of shape `(batch, length - 1)` over the positions that predict a supervised token, and of
        these tokens' labels and other columns, each of shape `(tokens, ...)`.
    """
    supervised = batch["labels"][:, 1:] != IGNORED
    columns = {name: values for name, values in batch.items() if name not in NOT_PREDICTED}
    return supervised, {name: values[:, 1:][supervised] for name, values in columns.items()}
