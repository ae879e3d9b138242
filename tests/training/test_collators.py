"""The collators, by literal tensors."""

from typing import Any

import pytest
import torch

from drafter_trainer.training.collators import SelfDistilledCollator, collate_packed

ROWS: list[dict[str, Any]] = [
    {"prompt_ids": [5, 6], "response_ids": [7, 2], "topk_ids": [[7], [2]], "topk_logprobs": [[-0.1], [-0.2]]},
    {"prompt_ids": [5], "response_ids": [2], "topk_ids": [[2]], "topk_logprobs": [[-0.3]]},
]


def assert_batch(batch: dict[str, torch.Tensor], expected: dict[str, list]) -> None:
    for name, values in expected.items():
        wanted = torch.tensor(values)
        assert batch[name].dtype == (torch.float32 if name == "topk_logprobs" else torch.int64), name
        torch.testing.assert_close(batch[name], wanted, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


WHOLE = {
    "input_ids": [[5, 6, 7, 2], [5, 2, 0, 0]],
    "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
    "labels": [[-100, -100, 7, 2], [-100, 2, -100, -100]],
    "topk_ids": [[[0], [0], [7], [2]], [[0], [2], [0], [0]]],
    "topk_logprobs": [[[0.0], [0.0], [-0.1], [-0.2]], [[0.0], [-0.3], [0.0], [0.0]]],
}
# The end of the completion is lost, and no end token is added.
CUT = {
    "input_ids": [[5, 6, 7], [5, 2, 0]],
    "attention_mask": [[1, 1, 1], [1, 1, 0]],
    "labels": [[-100, -100, 7], [-100, 2, -100]],
    "topk_ids": [[[0], [0], [7]], [[0], [2], [0]]],
    "topk_logprobs": [[[0.0], [0.0], [-0.1]], [[0.0], [-0.3], [0.0]]],
}
LONG = [ROWS[0] | {"prompt_ids": [5, 8, 9, 6]}]
CASES = {
    "whole": (ROWS, {}, WHOLE),
    "the pad id is the end token, which stays supervised": (
        ROWS,
        {"pad_id": 2},
        {name: WHOLE[name] for name in ("attention_mask", "labels")} | {"input_ids": [[5, 6, 7, 2], [5, 2, 2, 2]]},
    ),
    "cut": (ROWS, {"max_length": 3}, CUT),
    "a prompt that fills the length": (ROWS[:1], {"max_length": 2}, {"labels": [[-100] * 2], "topk_ids": [[[0]] * 2]}),
    "a prompt that does not fit": (ROWS[:1], {"max_length": 1}, {"labels": [[-100]], "topk_ids": [[[0]]]}),
    "a window of the prompt": (
        LONG,
        {"prompt_window": 1},
        {"input_ids": [[5, 6, 7, 2]], "labels": [[-100, -100, 7, 2]]},
    ),
}


@pytest.mark.parametrize(("rows", "given", "expected"), CASES.values(), ids=CASES)
def test_rows_become_these_tensors(rows: list[dict], given: dict[str, int], expected: dict[str, list]) -> None:
    """Prevent supervised prompts or padding, and distributions of another token, also at the end of rows."""
    batch = SelfDistilledCollator(**{"pad_id": 0, "max_length": 8} | given)(rows)
    assert batch.keys() == WHOLE.keys()
    assert_batch(batch, expected)


def test_a_row_without_distributions_takes_them_from_its_batch() -> None:
    """Prevent rows without log-probabilities from counting as certain, or from needing any."""
    bare = {name: values for name, values in ROWS[1].items() if not name.startswith("topk_")}
    for row in (bare, bare | {"topk_ids": None, "topk_logprobs": None}):
        batch = SelfDistilledCollator(pad_id=0, max_length=8)([ROWS[0], row])
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_packed_rows_are_stacked_and_supervised_whole() -> None:
    """Prevent packed rows from being padded, masked or shifted."""
    batch = collate_packed([{"input_ids": [5, 6, 2]}, {"input_ids": [8, 2, 9]}])
    assert batch.keys() == {"input_ids", "labels"}
    assert_batch(batch, {"input_ids": [[5, 6, 2], [8, 2, 9]], "labels": [[5, 6, 2], [8, 2, 9]]})
    nothing = collate_packed([{"input_ids": [-1, -1]}])
    assert_batch(nothing, {"input_ids": [[0, 0]], "labels": [[-100, -100]]})
    batch["labels"][0, 0] = -100
    assert batch["input_ids"][0, 0] == 5
