"""The store of self-distilled rows: whole shards, nothing lost, nothing twice."""

import errno
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drafter_trainer.distillation import store as store_module
from drafter_trainer.distillation.requests import TOP_K, Completion, Request
from drafter_trainer.distillation.store import ROWS, RowStore
from drafter_trainer.errors import DamagedStoreError
from tests.distillation.conftest import REQUEST, stored_rows


def answered(number: int, tokens: int = 3, finish_reason: str = "stop") -> tuple[Request, Completion]:
    """Make a request and a completion that are unique to a number."""
    random = np.random.default_rng(number)
    ids = np.stack([random.permutation(400)[:TOP_K] for _ in range(tokens)])
    logprobs = -np.sort(random.exponential(3, (tokens, TOP_K))).astype(np.float32)
    request = replace(REQUEST, seed=number, source_id=f"sample/{number}")
    return request, Completion(random.integers(5, 400, tokens).tolist(), ids, logprobs, finish_reason)


def write_three(folder: Path) -> tuple[RowStore, list[tuple[Request, Completion]]]:
    """Write three shards of two rows each."""
    store = RowStore(folder)
    rows = [answered(number) for number in range(6)]
    for start in range(0, 6, 2):
        store.write(rows[start : start + 2], "transformers")
    return store, rows


def files(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Prevent a column from being lost, renamed or rounded, and a limit from being stated that was never reached."""
    store = RowStore(tmp_path)
    request, completion = answered(1, tokens=4, finish_reason="length")
    asked = replace(request, corpus="file:/home/me/a.txt", source_id="/home/me/a.txt, line 3")
    store.write([(asked, completion)], "transformers")
    (row,) = stored_rows(store)
    assert next(store.tables()).schema.equals(ROWS)  # two bytes for each log-probability
    topk_ids, topk_logprobs = row.pop("topk_ids"), row.pop("topk_logprobs")
    assert row.pop("temperature") == pytest.approx(request.temperature)
    expected = asdict(request) | {
        "key": request.key,
        "prompt_ids": [*request.prompt_ids],
        "response_ids": completion.completion_ids,
        "finish_reason": "length",
        "corpus": "file:a.txt",  # rows are published
        "source_id": "a.txt, line 3",
        "max_new_tokens": 4,  # of 16, truncated by a server's context
        "engine": "transformers",
        "retokenized": False,
    }
    del expected["temperature"], expected["stop"], expected["completion_ids"]
    assert row == expected
    np.testing.assert_array_equal(topk_ids, completion.topk_ids)
    np.testing.assert_array_equal(np.array(topk_logprobs), completion.topk_logprobs.astype(np.float16))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["disk full", "interrupted"]
)
def test_a_shard_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Prevent half a shard, left by a full disk or an interrupt, from being read as a whole one."""
    store, rows = write_three(tmp_path)
    before = files(tmp_path)
    write_table = pq.write_table

    def write_half(table: pa.Table, path: Path) -> None:
        write_table(table, path)
        path.write_bytes(path.read_bytes()[:100])
        raise error

    monkeypatch.setattr(store_module.pq, "write_table", write_half)
    with pytest.raises(type(error)):
        store.write([answered(6)], "transformers")
    with pytest.raises(type(error)):
        store.write_dropped([(answered(7)[0], "empty completion")], "English")
    assert files(tmp_path) == before
    monkeypatch.undo()
    store.write([answered(6)], "transformers")
    assert len(store.keys()) == len(rows) + 1


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_shard_is_named_with_what_to_do(tmp_path: Path, kept: float) -> None:
    """Prevent a damaged shard from ending a run in a traceback, or from passing for an empty one."""
    store, _ = write_three(tmp_path)
    shard = store.shards()[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(len(whole) * kept)])
    expected = r"rows-000-000001\.parquet is damaged .*delete it and distill again"
    for read in (store.keys, lambda: list(store.tables()), store.count):
        with pytest.raises(DamagedStoreError, match=expected):
            read()


@pytest.mark.parametrize("within", [False, True], ids=["of another shard", "of its own"])
def test_a_repeated_key_is_rejected(tmp_path: Path, within: bool) -> None:
    """Prevent rows from weighing double because a shard was copied back, and a row from counting as a drop too."""
    store, rows = write_three(tmp_path)
    if within:
        store.write([answered(6), answered(6)], "transformers")
    else:
        shutil.copy(store.shards()[0], tmp_path / "rows-000-000003.parquet")
    with pytest.raises(DamagedStoreError, match=r"rows-000-000003\.parquet repeats rows .*delete it"):
        store.keys()
    (tmp_path / "rows-000-000003.parquet").unlink()
    assert len(store.keys()) == len(rows)
    store.write_dropped([(rows[0][0], "empty completion")], "English")
    with pytest.raises(DamagedStoreError, match=r"dropped-000-000000\.parquet repeats rows"):
        store.keys()


def test_two_writers_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent two processes from overwriting each other's shards, also where they write at the same moment."""
    stores = [RowStore(tmp_path, writer) for writer in (0, 1)]
    for number in range(6):
        stores[number % 2].write([answered(number)], "transformers")
        stores[number % 2].write_dropped([(answered(10 + number)[0], "empty completion")], "English")
    assert len(RowStore(tmp_path).shards()) == 6
    assert len(stores[0].keys()) == len(stores[1].keys()) == 12
    assert stores[0].drops() == {"empty completion (English)": 6}
    write_table = pq.write_table

    def write_while_another_does(table: pa.Table, path: Path) -> None:
        monkeypatch.setattr(store_module.pq, "write_table", write_table)
        stores[1].write([answered(21)], "transformers")
        write_table(table, path)

    monkeypatch.setattr(store_module.pq, "write_table", write_while_another_does)
    stores[0].write([answered(20)], "transformers")
    assert RowStore(tmp_path).keys() >= {answered(number)[0].key for number in (20, 21)}


INT64 = pa.list_(pa.list_(pa.int64(), TOP_K))
ALTERED = {
    "without a column": lambda table: table.drop_columns(["retokenized"]),
    "another type": lambda table: table.set_column(3, "topk_ids", table["topk_ids"].cast(INT64)),
    "without keys": lambda table: table.rename_columns(["id", *table.column_names[1:]]),
    "rewritten by another tool": lambda table: table.select(table.column_names[::-1]),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_shards_of_another_version_are_rejected(tmp_path: Path, alter: Any) -> None:
    """Prevent rows of an older schema from being mixed with new ones."""
    store, _ = write_three(tmp_path)
    shard = store.shards()[0]
    pq.write_table(alter(pq.read_table(shard)), shard)
    expected = r"rows-000-000000\.parquet was written by another version.*another folder"
    with pytest.raises(DamagedStoreError, match=expected):
        store.keys()
    with pytest.raises(DamagedStoreError, match=expected):
        list(store.tables(["response_ids"]))


def test_counts_are_of_rows_tokens_and_cut_completions(tmp_path: Path) -> None:
    """Prevent wrong counts in a step's record."""
    store = RowStore(tmp_path)
    store.write([answered(0, tokens=3), answered(1, tokens=5, finish_reason="length")], "transformers")
    store.write([answered(2, tokens=7, finish_reason="length")], "transformers")
    assert store.count() == {"rows": 3, "response_tokens": 15, "cut_by_length": 2, "without_logprobs": 0}
