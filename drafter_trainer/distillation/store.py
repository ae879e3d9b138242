"""The resumable store of self-distilled rows: Parquet shards that are written atomically."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drafter_trainer.atomic import write_whole
from drafter_trainer.distillation.requests import TOP_K, Completion, Request, Requests
from drafter_trainer.errors import DamagedStoreError
from drafter_trainer.provenance import without_folders

SPLITS = ("train", "validation")
TopK = tuple[np.ndarray, np.ndarray]  # most likely ids at each position of a completion, and their log-probabilities

ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("topk_ids", pa.list_(pa.list_(pa.int32(), TOP_K))),
        ("topk_logprobs", pa.list_(pa.list_(pa.float16(), TOP_K))),
        ("finish_reason", pa.string()),
        ("temperature", pa.float32()),
        ("seed", pa.int64()),
        ("max_new_tokens", pa.int32()),
        ("source_id", pa.string()),
        ("corpus", pa.string()),
        ("pair", pa.string()),
        ("engine", pa.string()),
        ("retokenized", pa.bool_()),
        ("target", pa.string()),
        ("target_revision", pa.string()),
    ]
)
DROPPED = pa.schema([("key", pa.string()), ("reason", pa.string()), ("language", pa.string())])
NAMES = ("target", "source_id", "corpus")  # columns that had paths in earlier releases


class KeySet(Set):
    """A set of row keys with 64 bytes per key, since a store may have millions of them."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = np.fromiter(keys, dtype="S64")
        self._keys.sort()

    def repeated(self) -> str | None:
        """Return a key that occurred more than once."""
        repeats = self._keys[1:][self._keys[1:] == self._keys[:-1]]
        return repeats[0].decode() if len(repeats) else None

    def __contains__(self, key: object) -> bool:
        place = np.searchsorted(self._keys, str(key).encode())
        return bool(place < len(self._keys) and self._keys[place].decode() == key)

    def __iter__(self) -> Iterator[str]:
        return (key.decode() for key in self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class RowStore:
    """Self-distilled rows in a folder of Parquet shards.

    A shard is written to a temporary file and renamed, so that an interrupted run leaves no incomplete shard. Dropped
    requests are stored as key and reason, so that they are neither repeated nor counted twice. Several processes can
    write to one folder with different `writer` numbers.
    """

    def __init__(self, folder: Path, writer: int = 0) -> None:
        self.folder = folder
        self.writer = writer
        folder.mkdir(parents=True, exist_ok=True)

    def shards(self, kind: str = "rows") -> list[Path]:
        """List the shards of rows, or of "dropped" requests, sorted by name."""
        return sorted(self.folder.glob(f"{kind}-*.parquet"))

    def keys(self) -> KeySet:
        """Read the keys of all requests, stored or dropped."""

        def read(shard: Path, schema: pa.Schema) -> list[str]:
            return _read(shard, schema, ["key"])["key"].to_pylist()

        shards = [
            (shard, schema) for kind, schema in (("rows", ROWS), ("dropped", DROPPED)) for shard in self.shards(kind)
        ]
        keys = KeySet(itertools.chain.from_iterable(read(*shard) for shard in shards))
        if repeated := keys.repeated():
            counts = itertools.accumulate(read(*shard).count(repeated) for shard in shards)
            damaged = next(shard for (shard, _), count in zip(shards, counts) if count > 1)
            raise DamagedStoreError(f"{damaged} repeats rows of an earlier shard: delete it and run again")
        return keys

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows shard by shard."""
        for shard in self.shards():
            yield _read(shard, ROWS, columns)

    def target_name(self, revision: str) -> str | None:
        """Return the target's name in the keys of the rows, or `None` if there are no rows of this revision."""
        rows = (row for table in self.tables(["target", "target_revision"]) for row in table.to_pylist())
        return next((row["target"] for row in rows if row["target_revision"] == revision), None)

    def count(self) -> dict[str, int]:
        """Count rows, tokens of completions, truncated completions, and rows without log-probabilities."""
        rows = tokens = truncated = 0
        for table in self.tables(["response_ids", "finish_reason"]):
            rows += table.num_rows
            tokens += pc.sum(pc.list_value_length(table["response_ids"])).as_py()
            truncated += pc.sum(pc.equal(table["finish_reason"], "length")).as_py()
        unscored = sum(map(count_unscored, self.shards()))
        return {"rows": rows, "response_tokens": tokens, "cut_by_length": truncated, "without_logprobs": unscored}

    def drops(self) -> Counter[str]:
        """Count the dropped requests, under "reason (language)"."""
        rows = (row for shard in self.shards("dropped") for row in _read(shard, DROPPED).to_pylist())
        return Counter(f"{row['reason']} ({row['language']})" for row in rows)

    def write(self, rows: Sequence[tuple[Request, Completion]], engine: str) -> None:
        """Write rows as a shard."""
        self._write("rows", [_record(request, completion, engine) for request, completion in rows], ROWS)

    def write_dropped(self, rows: Sequence[tuple[Request, str]], language: str) -> None:
        """Write dropped requests with their reasons."""
        records = [{"key": request.key, "reason": reason, "language": language} for request, reason in rows]
        self._write("dropped", records, DROPPED)

    def add_logprobs(self, shard: Path, score: Callable[[list[tuple[list[int], list[int]]]], list[TopK]]) -> None:
        """Add log-probabilities to the rows of a shard that have none.

        Args:
            score (callable): Function from the ids of prompts and completions to top-k ids and log-probabilities.
        """
        records = _read(shard, ROWS).to_pylist()
        unscored = [record for record in records if record["topk_logprobs"] is None]
        scores = score([(record["prompt_ids"], record["response_ids"]) for record in unscored])
        for record, topk in zip(unscored, scores):
            record |= _topk(*topk)
        write_whole(shard, lambda path: pq.write_table(pa.Table.from_pylist(records, ROWS), path))

    def _write(self, kind: str, records: list[dict], schema: pa.Schema) -> None:
        if not records:
            return
        # The last number plus one, not the number of shards, since a damaged shard may have been deleted.
        prefix = f"{kind}-{self.writer:03d}"
        numbers = [int(shard.stem.rsplit("-")[-1]) for shard in self.shards(prefix)]
        shard = self.folder / f"{prefix}-{max(numbers, default=-1) + 1:06d}.parquet"
        write_whole(shard, lambda path: pq.write_table(pa.Table.from_pylist(records, schema), path))


def count_unscored(shard: Path) -> int:
    """Count the rows of a shard without log-probabilities, from its metadata."""
    _read(shard, ROWS, [])
    metadata = pq.read_metadata(shard)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(each.statistics.null_count for each in columns if each.path_in_schema.startswith("topk_logprobs."))


def is_whole(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Return whether all rows of a finished step still exist, since a damaged shard may have been deleted."""
    rows = {split: sum(table.num_rows for table in RowStore(folder / split).tables(["seed"])) for split in SPLITS}
    return all(split in facts and rows[split] == facts[split]["rows"] for split in SPLITS)


def compare(requests: Requests, store: RowStore, scored: bool) -> tuple[int, int]:
    """Return the number of requests that a store lacks, and the number of its rows that are not requested.

    Args:
        scored (`bool`): Whether rows without log-probabilities count as missing.
    """
    keys, done = KeySet(request.key for request in requests), store.keys()
    stored = (key for table in store.tables(["key"]) for key in table["key"].to_pylist())
    unscored = sum(map(count_unscored, store.shards())) if scored else 0
    return sum(key not in done for key in keys) + unscored, sum(key not in keys for key in stored)


def without_paths(table: pa.Table, target: str) -> pa.Table:
    """Return rows without the local paths that earlier releases recorded.

    Args:
        target (`str`): Name that replaces the folder of a target.
    """
    for name in NAMES:
        values = table[name].to_pylist()
        values = [target if name == "target" and value.startswith("/") else without_folders(value) for value in values]
        table = table.set_column(table.column_names.index(name), ROWS.field(name), [pa.array(values, pa.string())])
    return table


def _read(shard: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    try:
        if pq.read_schema(shard).equals(schema):
            return pq.read_table(shard, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedStoreError(
            f"{shard} is damaged ({error}): delete it and distill again; only its rows are generated again"
        ) from error
    raise DamagedStoreError(f"{shard} was written by another version, with other columns: distill into another folder")


def _record(request: Request, completion: Completion, engine: str) -> dict:
    return (
        asdict(request)
        | {
            "key": request.key,
            "response_ids": completion.completion_ids,
            "finish_reason": completion.finish_reason,
            "max_new_tokens": request.limit_of(completion),
            "source_id": without_folders(request.source_id),
            "corpus": without_folders(request.corpus),
            "engine": engine,
            "retokenized": completion.retokenized,
        }
        | _topk(completion.topk_ids, completion.topk_logprobs)
    )


def _topk(ids: np.ndarray | None, logprobs: np.ndarray | None) -> dict:
    if ids is None or logprobs is None:
        return {"topk_ids": None, "topk_logprobs": None}
    return {"topk_ids": list(ids.astype(np.int32)), "topk_logprobs": list(logprobs.astype(np.float16))}
