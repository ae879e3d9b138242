"""Self-distilled rows as a dataset: only whole ones, only of the right target."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drafter_trainer.distillation.requests import TOP_K, Completion
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.training.collators import SelfDistilledCollator
from drafter_trainer.training.rows import has_topk, load_rows, load_split
from tests.distillation.conftest import REQUEST

TARGET = Target(REQUEST.target, REQUEST.target_revision, "nowhere")


def write(folder: Path, count: int = 4, **given: str) -> RowStore:
    """Write shards of two rows each, the answer of row n being n tokens long."""
    store = RowStore(folder)
    for start in range(0, count, 2):
        rows = []
        for number in range(start, min(start + 2, count)):
            ids = np.arange(TOP_K)[None].repeat(number + 1, axis=0) + number
            answer = Completion([number] * (number + 1), ids, -0.5 * ids, "stop")
            rows.append((replace(REQUEST, seed=number, **given), answer))
        store.write(rows, "transformers")
    return store


def test_rows_are_loaded_in_order_and_collated(tmp_path: Path) -> None:
    """Prevent rows from being lost between shards, and columns from changing their type on the way to the loss."""
    write(tmp_path, 5)
    rows = load_rows(tmp_path, TARGET)
    assert rows["response_ids"] == [[number] * (number + 1) for number in range(5)]
    assert rows["length"] == [len(REQUEST.prompt_ids) + number + 1 for number in range(5)]
    assert set(rows.column_names) == {"prompt_ids", "response_ids", "topk_ids", "topk_logprobs", "length"}
    batch = SelfDistilledCollator(pad_id=0, max_length=64)([rows[0], rows[4]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 0, 0, 0, 0], [5, 6, 7, 4, 4, 4, 4, 4]]
    assert batch["topk_ids"][1, 3].tolist() == list(range(4, 24))
    assert batch["topk_logprobs"][1, 7].tolist() == [-0.5 * number for number in range(4, 24)]


def test_another_targets_rows_are_refused_with_both_names(tmp_path: Path) -> None:
    """Prevent learning another model's answers; a target that was given a name since is no other."""
    store = write(tmp_path, target="earlier/name")
    assert len(load_rows(tmp_path, TARGET)) == 4
    other = replace(REQUEST, seed=9, target_revision="older")
    store.write([(other, Completion([1], np.zeros((1, TOP_K)), np.zeros((1, TOP_K)), "stop"))], "transformers")
    found = "holds answers of tests/tiny-target@older, the target is tests/tiny-target@abc"
    with pytest.raises(InputError, match=found):
        load_rows(tmp_path, TARGET)


def test_rows_without_log_probabilities_serve_where_none_are_needed(tmp_path: Path) -> None:
    """Prevent a traceback in the midst of training, and answers that are of no use to a loss that reads them alone."""
    rows = [(replace(REQUEST, seed=number), Completion([number], None, None, "stop")) for number in range(3)]
    RowStore(tmp_path / "b" / "train").write(rows, "server:sglang")
    with pytest.raises(InputError, match=r"3 rows in .* have no log-probabilities: .*teacher_forcing"):
        load_rows(tmp_path / "b" / "train", TARGET)
    write(tmp_path / "a" / "train")
    folders = [tmp_path / "a", tmp_path / "b"]
    for topk, loaded in ((False, folders), (None, folders), (None, folders[:1])):
        rows = load_split(loaded, "train", TARGET, topk)
        assert len(rows) == (7 if len(loaded) == 2 else 4)
        assert has_topk(rows) == (len(loaded) == 1)


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    """Prevent training on nothing, also where every answer of a small split was dropped."""
    with pytest.raises(InputError, match=r"holds no rows: distill first"):
        load_rows(tmp_path, TARGET)
    RowStore(tmp_path).write_dropped([(REQUEST, "empty completion")], "English")
    with pytest.raises(InputError, match=r"holds no rows"):
        load_rows(tmp_path, TARGET)


def test_a_shard_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """Prevent a cache from giving the rows of a shard that was deleted and distilled again."""
    store = write(tmp_path, 2)
    before = load_rows(tmp_path, TARGET)["response_ids"]
    (shard,) = store.shards()
    shard.unlink()
    ids = np.zeros((1, TOP_K))
    store.write([(replace(REQUEST, seed=7), Completion([77], ids, ids, "stop"))], "transformers")
    assert before == [[0], [1, 1]]
    assert load_rows(tmp_path, TARGET)["response_ids"] == [[77]]
