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
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        wanted = torch.tensor(values)
        assert batch[name].dtype == (torch.float32 if name == "topk_logprobs" else torch.int64), name
        torch.testing.assert_close(batch[name], wanted, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_rows_become_the_tensors_of_the_docstring() -> None:
    """Prevent supervised prompts, attended padding, and distributions that stand beside their token."""
    assert_batch(
        SelfDistilledCollator(pad_id=0, max_length=8)(ROWS),
        {
            "input_ids": [[5, 6, 7, 2], [5, 2, 0, 0]],
            "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
            "labels": [[-100, -100, 7, 2], [-100, 2, -100, -100]],
            "topk_ids": [[[0], [0], [7], [2]], [[0], [2], [0], [0]]],
            "topk_logprobs": [[[0.0], [0.0], [-0.1], [-0.2]], [[0.0], [-0.3], [0.0], [0.0]]],
        },
    )


def test_the_pad_id_is_masked_and_may_be_the_end_token() -> None:
    """Prevent the end of an answer from losing its supervision where the pad id is the end token."""
    batch = SelfDistilledCollator(pad_id=2, max_length=8)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2], [5, 2, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 2], [-100, 2, -100, -100]]


def test_long_rows_lose_the_end_of_their_answer() -> None:
    """Prevent truncation from shifting distributions against tokens, or from making an end token up."""
    assert_batch(
        SelfDistilledCollator(pad_id=0, max_length=3)(ROWS),
        {
            "input_ids": [[5, 6, 7], [5, 2, 0]],
            "attention_mask": [[1, 1, 1], [1, 1, 0]],
            "labels": [[-100, -100, 7], [-100, 2, -100]],
            "topk_ids": [[[0], [0], [7]], [[0], [2], [0]]],
            "topk_logprobs": [[[0.0], [0.0], [-0.1]], [[0.0], [-0.3], [0.0]]],
        },
    )


@pytest.mark.parametrize("max_length", [1, 2])
def test_a_prompt_that_fills_the_length_leaves_nothing_supervised(max_length: int) -> None:
    """Prevent a long prompt from being supervised, or from ending the training, where its answer is cut away."""
    batch = SelfDistilledCollator(pad_id=0, max_length=max_length)(ROWS[:1])
    assert batch["input_ids"].tolist() == [[5, 6][:max_length]]
    assert batch["labels"].tolist() == [[-100] * max_length]
    assert batch["topk_ids"].shape == (1, max_length, 1)


def test_a_window_takes_the_first_token_and_the_end_of_the_prompt() -> None:
    """Prevent the wrong part of a prompt from being read, or the supervised tokens from moving."""
    batch = SelfDistilledCollator(pad_id=0, max_length=8, prompt_window=1)([ROWS[0] | {"prompt_ids": [5, 8, 9, 6]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 2]]


def test_a_row_without_distributions_takes_them_from_its_batch() -> None:
    """Prevent rows without log-probabilities from counting as certain, or from needing any."""
    bare = {name: values for name, values in ROWS[1].items() if not name.startswith("topk_")}
    for row in (bare, bare | {"topk_ids": None, "topk_logprobs": None}):
        batch = SelfDistilledCollator(pad_id=0, max_length=8)([ROWS[0], row])
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_packed_rows_are_stacked_and_supervised_whole() -> None:
    """Prevent packed rows from being padded, masked or shifted."""
    batch = collate_packed([{"input_ids": [5, 6, 2]}, {"input_ids": [8, 2, 9]}])
    assert_batch(batch, {"input_ids": [[5, 6, 2], [8, 2, 9]], "labels": [[5, 6, 2], [8, 2, 9]]})
    nothing = collate_packed([{"input_ids": [-1, -1]}])
    assert_batch(nothing, {"input_ids": [[0, 0]], "labels": [[-100, -100]]})
    batch["labels"][0, 0] = -100
    assert batch["input_ids"][0, 0] == 5
