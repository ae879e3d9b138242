"""The resumable store of self-distilled rows: Parquet shards that appear whole or not at all."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drafter_trainer.atomic import write_whole
from drafter_trainer.distillation.requests import Request
from drafter_trainer.errors import DamagedStoreError
from drafter_trainer.provenance import without_folders

TOP_K = 20
SPLITS = ("train", "validation")
TopK = tuple[np.ndarray, np.ndarray]  # the most likely ids at each position of an answer, and their log-probabilities

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
NAMES = ("target", "source_id", "corpus")  # columns that named paths in earlier releases
DROPPED = pa.schema([("key", pa.string()), ("reason", pa.string()), ("language", pa.string())])


@dataclass(frozen=True)
class Completion:
    """A completion of the target.

    Args:
        completion_ids (`list[int]`): The generator's own ids, with the end token if it ended by itself.
        topk_ids (`np.ndarray` of shape `(tokens, 20)`, *optional*): Most likely ids at each position, best first.
        topk_logprobs (`np.ndarray` of shape `(tokens, 20)`, *optional*): Their log-probabilities in nats, of the
            raw distribution at temperature 1.
        finish_reason (`str`): "stop" if it ended by itself, "length" if the limit cut it.
        retokenized (`bool`, *optional*, defaults to `False`): Whether only the text came back, and the ids are the
            tokenizer's and not the generator's own.
    """

    completion_ids: list[int]
    topk_ids: np.ndarray | None
    topk_logprobs: np.ndarray | None
    finish_reason: str
    retokenized: bool = False


def is_cut_short(request: Request, answer: Completion) -> bool:
    """Tell whether something else than the request's limit cut an answer, such as the context of a server.

    The row then states the limit that it had; its key stays the request's, which is not asked again.
    """
    cut = answer.finish_reason == "length" and len(answer.completion_ids) < request.max_new_tokens
    return cut and not answer.retokenized  # of text alone nobody knows how many tokens it was


@dataclass(frozen=True)
class Failure:
    """The reason why a request has no completion."""

    reason: str
    message: str = ""


class KeySet(Set):
    """A set of row keys in 64 bytes each: a store may have millions."""

    def __init__(self, shards: Iterable[Sequence[str]]) -> None:
        self._keys = np.fromiter(itertools.chain.from_iterable(shards), dtype="S64")
        self._keys.sort()

    @property
    def repeated(self) -> str | None:
        """A key that was there more than once."""
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

    A shard is written beside its place and renamed, so a run killed at any moment leaves only whole shards, and the
    keys in them say what is done. What was dropped is kept too, as key and reason, so that it is neither asked nor
    counted twice. Several processes write to one folder, each under its own `writer` number.
    """

    def __init__(self, folder: Path, writer: int = 0) -> None:
        self.folder = folder
        self.writer = writer
        folder.mkdir(parents=True, exist_ok=True)

    def shards(self) -> list[Path]:
        """List the shards of rows in the order of their names."""
        return sorted(self.folder.glob("rows-*.parquet"))

    def keys(self) -> "KeySet":
        """Read the keys of all rows, stored or dropped."""
        shards = [
            (schema, shard)
            for schema, pattern in ((ROWS, "rows"), (DROPPED, "dropped"))
            for shard in sorted(self.folder.glob(f"{pattern}-*.parquet"))
        ]
        keys = KeySet(_read(shard, schema, ["key"]).column("key").to_pylist() for schema, shard in shards)
        if repeated := keys.repeated:
            found = 0
            for schema, shard in shards:
                found += _read(shard, schema, ["key"]).column("key").to_pylist().count(repeated)
                if found > 1:
                    raise DamagedStoreError(f"{shard} repeats rows of an earlier shard: delete it and run again")
        return keys

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        for shard in self.shards():
            yield _read(shard, ROWS, columns)

    def target_name(self, revision: str) -> str | None:
        """Return the name that the keys of a target's rows were made with, `None` where it gave none."""
        for table in self.tables(["target", "target_revision"]):
            for name, of in zip(table["target"].to_pylist(), table["target_revision"].to_pylist()):
                if of == revision:
                    return name
        return None

    def count(self) -> dict[str, int]:
        """Count rows, tokens of answers, rows that the length limit cut, and rows without log-probabilities."""
        rows = tokens = cut = 0
        for table in self.tables(["response_ids", "finish_reason"]):
            rows += table.num_rows
            tokens += pc.sum(pc.list_value_length(table["response_ids"])).as_py()
            cut += pc.sum(pc.equal(table["finish_reason"], "length")).as_py()
        bare = sum(map(count_unscored, self.shards()))
        return {"rows": rows, "response_tokens": tokens, "cut_by_length": cut, "without_logprobs": bare}

    def drops(self) -> Counter[str]:
        """Count what was dropped, under "reason (language)"."""
        counts: Counter[str] = Counter()
        for shard in sorted(self.folder.glob("dropped-*.parquet")):
            for row in _read(shard, DROPPED, None).to_pylist():
                counts[f"{row['reason']} ({row['language']})"] += 1
        return counts

    def write(self, rows: Sequence[tuple[Request, Completion]], engine: str) -> None:
        self._write("rows", [_record(request, answer, engine) for request, answer in rows], ROWS)

    def write_dropped(self, rows: Sequence[tuple[Request, str]], language: str) -> None:
        """Write requests whose answers were dropped, each with its reason."""
        records = [{"key": request.key, "reason": reason, "language": language} for request, reason in rows]
        self._write("dropped", records, DROPPED)

    def add_logprobs(self, shard: Path, score: Callable[[list[dict[str, Any]]], list[TopK]]) -> None:
        """Give log-probabilities to the rows of a shard that have none; the shard stays whole at any moment.

        Args:
            score (callable): From rows, as dictionaries, to the most likely ids of each and their log-probabilities.
        """
        records = _read(shard, ROWS, None).to_pylist()
        bare = [record for record in records if record["topk_logprobs"] is None]
        for record, topk in zip(bare, score(bare)):
            record |= _topk(*topk)
        write_whole(shard, lambda path: pq.write_table(pa.Table.from_pylist(records, ROWS), path))

    def _write(self, kind: str, records: list[dict], schema: pa.Schema) -> None:
        if not records:
            return
        # The number behind the last one, not the count: a damaged shard may have been deleted from the middle.
        prefix = f"{kind}-{self.writer:03d}"
        numbers = [int(shard.stem.rsplit("-")[-1]) for shard in self.folder.glob(f"{prefix}-*.parquet")]
        shard = self.folder / f"{prefix}-{max(numbers, default=-1) + 1:06d}.parquet"
        write_whole(shard, lambda path: pq.write_table(pa.Table.from_pylist(records, schema), path))


def _read(shard: Path, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    try:
        is_ours = pq.read_schema(shard).equals(schema)
        table = pq.read_table(shard, columns=columns) if is_ours else None
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedStoreError(
            f"{shard} is damaged ({error}): delete it and distill again; only its rows are asked anew"
        ) from error
    if table is None:
        raise DamagedStoreError(f"{shard} has other columns than this version writes: distil into another folder")
    return table


def count_unscored(shard: Path) -> int:
    """Count the rows of a shard that have no log-probabilities, without reading any."""
    _read(shard, ROWS, [])
    metadata = pq.read_metadata(shard)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(each.statistics.null_count for each in columns if each.path_in_schema.startswith("topk_logprobs."))


def _record(request: Request, answer: Completion, engine: str) -> dict:
    return (
        asdict(request)
        | {
            "key": request.key,
            "response_ids": answer.completion_ids,
            "finish_reason": answer.finish_reason,
            "max_new_tokens": len(answer.completion_ids) if is_cut_short(request, answer) else request.max_new_tokens,
            "source_id": without_folders(request.source_id),
            "corpus": without_folders(request.corpus),
            "engine": engine,
            "retokenized": answer.retokenized,
        }
        | _topk(answer.topk_ids, answer.topk_logprobs)
    )


def without_paths(table: pa.Table, target: str) -> pa.Table:
    """Return rows without paths of this machine, which earlier releases recorded.

    Args:
        target (`str`): Name of the target that was known by its folder.
    """
    for name in NAMES:
        values = table[name].to_pylist()
        values = [target if name == "target" and value.startswith("/") else without_folders(value) for value in values]
        table = table.set_column(table.column_names.index(name), ROWS.field(name), [pa.array(values, pa.string())])
    return table


def _topk(ids: np.ndarray | None, logprobs: np.ndarray | None) -> dict:
    if ids is None or logprobs is None:
        return {"topk_ids": None, "topk_logprobs": None}
    return {"topk_ids": list(ids.astype(np.int32)), "topk_logprobs": list(logprobs.astype(np.float16))}
