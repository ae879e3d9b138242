"""Collators, which pad rows to a batch, and the choice of a batch's supervised tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.drafters.loop.sources import cut_prompt

IGNORED = -100  # label of unsupervised tokens, as in transformers
NOT_PREDICTED = ("input_ids", "attention_mask", "position_ids", CACHE)  # columns that the model reads
_TOPK = {"topk_ids": np.int64, "topk_logprobs": np.float32}


@dataclass
class SelfDistilledCollator:
    """Pad self-distilled rows on the right; completions are supervised, prompts are not.

    With `pad_id=0` and one stored id per position (k = 1), the rows

        {"prompt_ids": [5, 6], "response_ids": [7, 2], "topk_ids": [[7], [2]], "topk_logprobs": [[-.1], [-.2]]}
        {"prompt_ids": [5],    "response_ids": [2],    "topk_ids": [[2]],      "topk_logprobs": [[-.3]]}

    become

        input_ids      [[5, 6, 7, 2],                  [5, 2, 0, 0]]
        attention_mask [[1, 1, 1, 1],                  [1, 1, 0, 0]]
        labels         [[-100, -100, 7, 2],            [-100, 2, -100, -100]]
        topk_ids       [[[0], [0], [7], [2]],          [[0], [2], [0], [0]]]
        topk_logprobs  [[[0.], [0.], [-.1], [-.2]],    [[0.], [-.3], [0.], [0.]]]

    Position t of labels and top k is about the token at t, given the tokens before it. A batch has the columns of the
    top k if all of its rows have them.

    Args:
        pad_id (`int`): Id of padding in `input_ids`; it is masked, so any id will do.
        max_length (`int`): Longer rows lose the end of their completion; no end token is added.
        prompt_window (`int`, *optional*): Number of tokens at the end of each prompt that are kept, in addition to its
            first token; defaults to the whole prompt.
    """

    pad_id: int
    max_length: int
    prompt_window: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows to tensors of shape `(batch, longest)`, the top k of shape `(batch, longest, k)`."""
        if self.prompt_window:
            rows = [row | {"prompt_ids": cut_prompt(row["prompt_ids"], self.prompt_window)} for row in rows]
        sequences = [[*row["prompt_ids"], *row["response_ids"]][: self.max_length] for row in rows]
        shape = (len(rows), max(map(len, sequences)))
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORED),
        }
        if all(row.get("topk_logprobs") is not None for row in rows):
            k = next((len(ids[0]) for ids in (row["topk_ids"] for row in rows) if len(ids)), 1)
            batch |= {"topk_ids": torch.zeros(*shape, k, dtype=torch.long), "topk_logprobs": torch.zeros(*shape, k)}
        for index, (row, sequence) in enumerate(zip(rows, sequences)):
            start, end = min(len(row["prompt_ids"]), self.max_length), len(sequence)
            batch["input_ids"][index, :end] = torch.tensor(sequence)
            batch["attention_mask"][index, :end] = 1
            batch["labels"][index, start:end] = torch.tensor(sequence[start:], dtype=torch.long)
            for name, dtype in _TOPK.items():
                if name in batch:
                    values = np.array(row[name][: end - start], dtype=dtype).reshape(-1, k)
                    batch[name][index, start:end] = torch.from_numpy(values)
        return batch


def collate_packed(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack packed rows, all of one length; every token is supervised.

    Rows `[{"input_ids": [5, 6, 2]}, {"input_ids": [8, 2, 9]}]` become `input_ids` and `labels`, both
    `[[5, 6, 2], [8, 2, 9]]`. An id of -1 is padding, which is not supervised.

    Returns:
        `dict` of tensors of shape `(batch, length)`.
    """
    input_ids = torch.tensor(np.array([row["input_ids"] for row in rows], dtype=np.int64))
    return {"input_ids": input_ids.clamp(min=0), "labels": input_ids.masked_fill(input_ids < 0, IGNORED)}


def supervised_tokens(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Choose the supervised tokens of a batch, shifted by one: the position before a token predicts it.

    Args:
        batch (`dict`): Batch of a collator.
    Returns:
        `tuple` of a mask of shape `(batch, length - 1)` of the positions that predict a supervised token, and of the
        tokens' labels and other columns, each of shape `(tokens, ...)`.
    """
    supervised = batch["labels"][:, 1:] != IGNORED
    columns = {name: values for name, values in batch.items() if name not in NOT_PREDICTED}
    return supervised, {name: values[:, 1:][supervised] for name, values in columns.items()}
