"""Prompts and texts from the user: a dataset, a Hub id, a file, or a list."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from drafter_trainer.atomic import hash_file
from drafter_trainer.corpora.files import read_rows
from drafter_trainer.corpora.sample import hundredth
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.targets import resolve_commit

PROMPT_COLUMNS = ("prompt", "messages", "conversations")
TEXT_COLUMNS = ("text",)
_FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".txt", ".parquet", ".gz")
_HELD_OUT = 5  # hundredths of the rows, if there is no validation split
_VALIDATION_NAMES = ("validation", "valid", "dev", "test")
_HASHED = 1000  # first rows of a stream, by which it is identified


@dataclass(frozen=True)
class UserData:
    """Rows from the user.

    Args:
        read (callable): Function from a split, "train" or "validation", to an iterator over rows.
        facts (`dict[str, str]`): Description in a step's record: the name, and a revision or hash.
    """

    name: str
    read: Callable[[str], Iterator[dict[str, Any]]]
    facts: dict[str, str]


def open_user_data(data: Any, columns: Sequence[str]) -> UserData:
    """Open a user's prompts or texts.

    Args:
        data (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): A dataset; a mapping from splits to
            datasets; a Hub id; a file (JSON Lines, JSON, CSV, Parquet, or text with one entry per line); or a list of
            texts, conversations or rows. Without a validation split, 5 % of the rows are held out by a hash.
        columns (`Sequence[str]`): Every row needs one of these columns. Plain text becomes the first column.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        if path.is_file():
            facts = {"name": f"file:{path.name}", "sha256": hash_file(path)}
            return _user_data(path.name, {"train": _read_file(path, columns)}, facts, columns)
        parts, facts = _load_from_hub(str(data))
        return _user_data(str(data), parts, facts, columns)
    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        parts = {"train": data}
    elif isinstance(data, Mapping):  # also a DatasetDict
        parts = dict(data)
    else:
        rows = list(data)
        return _user_data("list", {"train": rows}, {"name": "list", "fingerprint": _hash(rows)}, columns)
    fingerprint = " ".join(map(_fingerprint, parts.values()))
    return _user_data("dataset", parts, {"name": "dataset", "fingerprint": fingerprint}, columns)


def _user_data(
    name: str, parts: Mapping[str, Iterable[Any]], facts: dict[str, str], columns: Sequence[str]
) -> UserData:
    if "train" not in parts:
        raise InputError(f"the datasets need a split called train, got {', '.join(map(str, parts))}")
    validation = next((part for part in _VALIDATION_NAMES if part in parts), None)

    def read(split: str) -> Iterator[dict[str, Any]]:
        if validation is None:
            return _split(_rows(parts["train"], name, columns), split)
        return _rows(parts["train" if split == "train" else validation], name, columns)

    return UserData(name, read, facts)


def _load_from_hub(repo: str) -> tuple[Mapping[str, Iterable[Any]], dict[str, str]]:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo} is neither a file nor a Hub id of a dataset") from error
    if Path(repo).suffix in _FILE_SUFFIXES:
        raise InputError(f"{repo}: no such file: give an existing file, or the Hub id of a dataset")
    revision = resolve_commit(repo, None, "a dataset", "dataset")
    try:
        parts = datasets.load_dataset(repo, revision=revision)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"the dataset {repo} cannot be read: {one_line(error)}") from error
    return parts, {"name": repo, "repo": repo, "revision": revision}


def _read_file(path: Path, columns: Sequence[str]) -> Iterable[Any]:
    if path.suffix == ".csv":
        try:
            return datasets.load_dataset("csv", data_files=str(path), split="train")
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"{path} cannot be read as CSV: {one_line(error.__cause__ or error)}") from error
    rows = [row for _, row in read_rows(path)]
    # Blank lines of a text file only separate paragraphs.
    rows = [row["text"] if row.keys() == {"text"} and "text" not in columns else row for row in rows]
    return [row for row in rows if row not in ("", {"text": ""})]


def _rows(rows: Iterable[Any], name: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        location = f"{name}, row {number}"
        if isinstance(row, str):
            row = {columns[0]: row}
        elif isinstance(row, list):
            row = {"messages": row}
        if not isinstance(row, Mapping) or all(row.get(column) is None for column in columns):
            got = ", ".join(row) if isinstance(row, Mapping) else repr(row)[:80]
            raise InputError(f"{location}: expected a column {' or '.join(columns)}, got {got or 'nothing'}")
        yield {key: value for key, value in row.items() if value is not None} | {"source_id": location}


def _split(rows: Iterator[dict[str, Any]], split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split, chosen by a hash, so that repeated rows are in one split only.

    If the hash holds out no row, the first row is held out, since tuning and evaluation need one.
    """
    first, found = None, False
    for row in rows:
        content = {key: value for key, value in row.items() if key != "source_id"}
        if hundredth(_json(content)) < _HELD_OUT:
            found = True
            if split == "validation":
                yield row
        elif first is None:
            first = row
        elif split == "train":
            yield row
    if first is not None and found == (split == "train"):
        yield first


def _fingerprint(part: Any) -> str:
    if isinstance(part, datasets.Dataset):
        return part._fingerprint
    return _hash(list(part.take(_HASHED)) if isinstance(part, datasets.IterableDataset) else part)


def _hash(content: Any) -> str:
    return hashlib.sha256(_json(content).encode()).hexdigest()


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, default=str)
