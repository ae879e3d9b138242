"""Self-distilled rows: loaded, of the right target, grouped and collated into tensors."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from drafter_trainer.distillation.requests import TOP_K, Completion
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.training.collators import SelfDistilledCollator, collate_packed
from drafter_trainer.training.rows import GroupedRows, fill_up, group_rows, lacks_topk, load_rows, prepare_rows
from tests.distillation.conftest import REQUEST
from tests.training.conftest import COLLATOR, make_rows

TARGET = Target(REQUEST.target, REQUEST.target_revision, "nowhere")


def write(folder: Path, count: int = 4, **given: str) -> RowStore:
    """Write shards of two rows each, the completion of row n being n + 1 tokens long."""
    store = RowStore(folder)
    for start in range(0, count, 2):
        rows = []
        for number in range(start, min(start + 2, count)):
            ids = np.arange(TOP_K)[None].repeat(number + 1, axis=0) + number
            completion = Completion([number] * (number + 1), ids, -0.5 * ids, "stop")
            rows.append((replace(REQUEST, seed=number, **given), completion))
        store.write(rows, "transformers")
    return store


def test_rows_are_loaded_in_order_and_collated(tmp_path: Path) -> None:
    """Prevent rows from being lost between shards, and columns from changing their type on the way to the loss."""
    write(tmp_path, 5)
    rows = prepare_rows(load_rows(tmp_path, TARGET))
    assert rows["response_ids"] == [[number] * (number + 1) for number in range(5)]
    assert rows["length"] == [len(REQUEST.prompt_ids) + number + 1 for number in range(5)]
    assert set(rows.column_names) == {"prompt_ids", "response_ids", "topk_ids", "topk_logprobs", "length"}
    batch = SelfDistilledCollator(pad_id=0, max_length=64)([rows[0], rows[4]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 0, 0, 0, 0], [5, 6, 7, 4, 4, 4, 4, 4]]
    assert batch["topk_ids"][1, 3].tolist() == list(range(4, 24))
    assert batch["topk_logprobs"][1, 7].tolist() == [-0.5 * number for number in range(4, 24)]


def test_another_targets_rows_are_rejected(tmp_path: Path) -> None:
    """Prevent learning another model's completions; a target that was renamed since is the same."""
    store = write(tmp_path, target="earlier/name")
    assert len(load_rows(tmp_path, TARGET)) == 4
    other = replace(REQUEST, seed=9, target_revision="older")
    store.write([(other, Completion([1], np.zeros((1, TOP_K)), np.zeros((1, TOP_K)), "stop"))], "transformers")
    found = "holds completions of tests/tiny-target@older, the target is tests/tiny-target@abc"
    with pytest.raises(InputError, match=found):
        load_rows(tmp_path, TARGET)


def test_rows_without_log_probabilities_are_loaded_without_any(tmp_path: Path) -> None:
    """Prevent columns that are empty in some rows, and completions of no use to a loss that does not need them."""
    rows = [(replace(REQUEST, seed=number), Completion([number], None, None, "stop")) for number in range(3)]
    RowStore(tmp_path / "b").write(rows, "server:sglang")
    write(tmp_path / "a")
    folders = [tmp_path / "a", tmp_path / "b"]
    for topk, loaded in ((False, folders[:1]), (True, folders), (True, folders[1:]), (True, folders[:1])):
        rows = load_rows(loaded, TARGET, topk)
        assert len(rows) == sum(4 if folder.name == "a" else 3 for folder in loaded)
        assert lacks_topk(rows) == (not topk or loaded != folders[:1])


def test_a_folder_without_rows_is_rejected(tmp_path: Path) -> None:
    """Prevent training on nothing, also if every completion of a small split was dropped."""
    with pytest.raises(InputError, match=r"holds no rows: distill first"):
        load_rows(tmp_path, TARGET)
    RowStore(tmp_path).write_dropped([(REQUEST, "empty completion")], "English")
    with pytest.raises(InputError, match=r"holds no rows"):
        load_rows(tmp_path, TARGET)


def test_a_shard_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """Prevent a cache from giving the rows of a shard that was deleted and distilled again."""
    store = write(tmp_path, 2)
    before = load_rows(tmp_path, TARGET)["response_ids"]
    (shard,) = store.shards()
    shard.unlink()
    ids = np.zeros((1, TOP_K))
    store.write([(replace(REQUEST, seed=7), Completion([77], ids, ids, "stop"))], "transformers")
    assert before == [[0], [1, 1]]
    assert load_rows(tmp_path, TARGET)["response_ids"] == [[77]]


@pytest.mark.parametrize("tokens", [100, 250, 1000, 10_000])
def test_every_row_is_in_one_group_within_the_budget(tokens: int) -> None:
    """Prevent rows that are never trained on, a batch that does not fit in memory, and groups that are half empty."""
    lengths = np.random.default_rng(0).integers(1, 101, 500)
    groups = group_rows(lengths, tokens, seed=0)
    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    padded = [len(group) * lengths[group].max() for group in groups]
    assert max(padded) <= tokens
    if tokens == 1000:
        assert sum(padded) < 1.05 * lengths.sum()
        assert len(groups) < 1.15 * lengths.sum() / tokens


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_every_row_once(processes: int) -> None:
    """Prevent rows from being trained on twice an epoch where the groups cannot be shared out evenly."""
    rows = prepare_rows(Dataset.from_list(make_rows(30)))
    arguments = SimpleNamespace(max_length=64, per_device_train_tokens=128, seed=0, world_size=processes)
    grouped = GroupedRows(rows, arguments, rows[0] | {"response_ids": []})
    assert len(grouped) % processes == 0
    seen = Counter()
    for number in range(len(grouped)):
        batch = grouped.__getitems__([number])
        collated = COLLATOR(batch)
        if (collated["labels"] != -100).any():
            seen.update(row["key"] for row in batch)
    assert seen == Counter(rows["key"])


def test_rows_are_filled_up_with_what_is_not_supervised() -> None:
    """Prevent a row from being lost, or one that is there already from being repeated."""
    rows = prepare_rows(Dataset.from_list(make_rows(9)))
    two, one = (SimpleNamespace(world_size=n, per_device_train_batch_size=2) for n in (2, 1))
    filled = fill_up(rows, two, rows[0] | {"response_ids": []})
    assert filled[:9] == rows[:9]
    assert len(filled) == 12
    assert filled[9:]["response_ids"] == [[]] * 3
    assert (COLLATOR([filled[10], filled[11]])["labels"] == -100).all()
    assert fill_up(rows, one, rows[0]) is rows


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
CUT = {name: [row[:3] for row in values] for name, values in WHOLE.items()}
WINDOW = {name: values[:1] for name, values in WHOLE.items()}
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
    "a window of the prompt": (LONG, {"prompt_window": 1}, WINDOW),
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
