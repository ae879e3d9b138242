"""Prompts and texts of a user's own: a dataset, a Hub id, a file, or a list."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from drafter_trainer.corpora.files import read_rows
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.targets import resolve_commit

PROMPT_COLUMNS = ("prompt", "messages", "conversations")
TEXT_COLUMNS = ("text",)
_HELD_OUT = 5  # hundredths of rows without a validation split, at least one
_VALIDATION_NAMES = ("validation", "valid", "dev", "test")
_MARKED = 1000  # rows of a stream by which it is known again


@dataclass(frozen=True)
class Source:
    """Rows of one origin.

    Args:
        read (callable): From a split, "train" or "validation", to an iterator over rows.
        facts (`dict[str, str]`): What is recorded of it: its name, and its revision or hash.
    """

    name: str
    read: Callable[[str], Iterator[dict[str, Any]]]
    facts: dict[str, str]


def read_source(data: Any, columns: Sequence[str]) -> Source:
    """Open what a user of the library gives as prompts or texts.

    Args:
        data (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): A dataset; datasets by split; the id of a
            dataset on the Hub; a file (JSON Lines, JSON, CSV, Parquet, or text with an entry a line); or a list of
            texts, of conversations, or of rows. Without a validation split 5 % of the rows are held out, by a hash of
            their contents.
        columns (`Sequence[str]`): Columns of which each row needs one; a text without a column stands for the first.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.is_file():
            return _read_hub(str(data), columns)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return _source(path.name, _read_file(path, columns), {"name": f"file:{path.name}", "sha256": digest}, columns)
    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        return _source("dataset", {"train": data}, {"name": "dataset", "fingerprint": _mark(data)}, columns)
    if isinstance(data, Mapping):  # a DatasetDict too
        parts = dict(data)
        marks = [_mark(part) for part in parts.values()]
        return _source("dataset", parts, {"name": "dataset", "fingerprint": " ".join(map(str, marks))}, columns)
    rows = list(data)
    return _source("list", {"train": rows}, {"name": "list", "fingerprint": _hash(rows)}, columns)


def _source(name: str, parts: Mapping[str, Iterable[Any]], facts: dict[str, str], columns: Sequence[str]) -> Source:
    if "train" not in parts:
        raise InputError(f"of datasets by split one is called train, got {', '.join(map(str, parts))}")
    held_out = next((part for part in _VALIDATION_NAMES if part in parts), None)

    def read(split: str) -> Iterator[dict[str, Any]]:
        if held_out is None:
            return _split(_rows(parts["train"], name, columns), split)
        return _rows(parts["train" if split == "train" else held_out], name, columns)

    return Source(name, read, facts)


def _read_hub(repo: str, columns: Sequence[str]) -> Source:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo} is neither a file nor the id of a dataset on the Hub") from error
    revision = resolve_commit(repo, None, "a data set", "dataset")
    try:
        parts = datasets.load_dataset(repo, revision=revision)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"the dataset {repo} cannot be read: {one_line(error)}") from error
    return _source(repo, parts, {"name": repo, "repo": repo, "revision": revision}, columns)


def _read_file(path: Path, columns: Sequence[str]) -> dict[str, Iterable[Any]]:
    if path.suffix == ".csv":
        try:
            return {"train": datasets.load_dataset("csv", data_files=str(path), split="train")}
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"{path} cannot be read as CSV: {one_line(error.__cause__ or error)}") from error
    rows = [row for _, row in read_rows(path)]
    # Of a text file each line is an entry; a blank one only separates paragraphs.
    rows = [row["text"] if row.keys() == {"text"} and "text" not in columns else row for row in rows]
    return {"train": [row for row in rows if row not in ("", {"text": ""})]}


def _rows(rows: Iterable[Any], name: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        place = f"{name}, row {number}"
        if isinstance(row, str):
            row = {columns[0]: row}
        elif isinstance(row, list):
            row = {"messages": row}
        if not isinstance(row, Mapping) or all(row.get(column) is None for column in columns):
            got = ", ".join(row) if isinstance(row, Mapping) else repr(row)[:80]
            raise InputError(f"{place}: expected a column {' or '.join(columns)}, got {got or 'nothing'}")
        yield {key: value for key, value in row.items() if value is not None} | {"source_id": place}


def _split(rows: Iterator[dict[str, Any]], split: str) -> Iterator[dict[str, Any]]:
    """Hold out rows by a hash of their contents, so that a repeated one never stands on two sides.

    Of a few rows none may be held out by its hash, and tuning and evaluation need one: the first is, then.
    """
    first, found = None, False
    for row in rows:
        content = {key: value for key, value in row.items() if key != "source_id"}
        if int(_hash(content)[:8], 16) % 100 < _HELD_OUT:
            found = True
            if split == "validation":
                yield row
        elif first is None:
            first = row
        elif split == "train":
            yield row
    if first is not None and found == (split == "train"):
        yield first


def _mark(part: Any) -> str:
    if isinstance(part, datasets.Dataset):
        return part._fingerprint
    return _hash(list(part.take(_MARKED)) if isinstance(part, datasets.IterableDataset) else part)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
