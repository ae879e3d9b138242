"""Read local JSON Lines, text and Parquet files, naming file and line of whatever is wrong in them."""

import gzip
import json
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow
import pyarrow.parquet

from drafter_trainer.errors import InputError, one_line

_BLOCK = 1 << 16
_DEPTH = 100
_Made = TypeVar("_Made")


class BadRowError(InputError):
    """Raise when one row of a corpus cannot be used.

    Args:
        reason (`str`): What is wrong, in one of few wordings: rows that are left out are counted under it.
    """

    def __init__(self, place: str, reason: str, advice: str = "") -> None:
        super().__init__(f"{place}: {reason}{advice}")
        self.reason = reason
        self._given = (place, reason, advice)

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again of its message alone, as exceptions are, it would break the pool of processes that it came from.
        return type(self), self._given


@dataclass
class BadRows:
    """Decide on rows that cannot be used: the first one ends the run, or all are counted and left out.

    Args:
        skip (`bool`, *optional*, defaults to `False`): Whether they are left out.
        counts (`Counter[str]`, *optional*): Gains those that were left out, under "bad row: reason".
    """

    skip: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, error: BadRowError) -> None:
        """Count a row, or raise its error."""
        if not self.skip:
            raise error
        self.counts[f"bad row: {error.reason}"] += 1

    def make(self, rows: Iterable[tuple[str, Any]], make: Callable[[str, Any], _Made]) -> Iterator[_Made]:
        """Make something of each row.

        Args:
            make (callable): Takes both; raises `BadRowError` for a row that it cannot use.
        """
        for place, row in rows:
            try:
                made = make(place, row)
            except BadRowError as error:
                self.add(error)
            else:
                yield made


STRICT = BadRows()


def read_lines(path: Path, bad_rows: BadRows = STRICT) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, unpacked with gzip where its name ends in `.gz`.

    Lines end as on Unix, Windows or an old Mac, and nowhere else: text of the web holds U+2028 and its like inside a
    line. A byte order mark may begin any line, since files are joined end to end.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = start = 0
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(_split(file), start=1):
                try:
                    text = _decode(line, f"{path}, line {number}", start)
                except BadRowError as error:
                    bad_rows.add(error)
                else:
                    yield number, text
                start += len(line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: damaged gzip file ({error}): fetch it again") from error


def _split(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_BLOCK):
        lines = (rest + block).splitlines(keepends=True)
        # A carriage return at the end of a block may be half of a line's end.
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        yield from lines
    if rest:
        yield rest


def _decode(line: bytes, place: str, start: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        likely = "UTF-16" if line[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "WINDOWS-1252"
        raise _not_utf8(place, start + error.start, f"0x{line[error.start]:02x}", likely) from error
    # ASCII in UTF-16 without a mark is valid UTF-8, with a NUL at every letter.
    if (found := line.find(b"\0")) >= 0:
        raise _not_utf8(place, start + found, "a NUL", "UTF-16")
    return text.removeprefix("\ufeff").rstrip("\r\n")


def _not_utf8(place: str, byte: int, found: str, likely: str) -> BadRowError:
    advice = f"iconv -f {likely} -t UTF-8" + (", if it is Western European" if likely == "WINDOWS-1252" else "")
    return BadRowError(place, "not UTF-8", f" ({found} at byte {byte}): convert the file to UTF-8, with {advice}")


def read_json_lines(path: Path, bad_rows: BadRows = STRICT) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a JSON Lines file."""
    places = ((f"{path}, line {number}", (number, line)) for number, line in read_lines(path, bad_rows))
    return bad_rows.make(places, _parse)


def _parse(place: str, numbered: tuple[int, str]) -> tuple[int, dict[str, Any]]:
    number, line = numbered
    if not line.strip():
        raise BadRowError(place, "empty line", ": delete it, or write a JSON object there")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRowError(place, "not JSON", f" ({error}): one object a line is expected") from error
    except RecursionError as error:
        raise _too_deep(place) from error
    except ValueError as error:  # Python converts no longer ones, which take quadratic time
        raise BadRowError(place, "a number of more than 4,300 digits", ": write it as a text") from error
    if not isinstance(row, dict):
        raise BadRowError(place, f"got a JSON {type(row).__name__}", ", expected an object")
    check_values(place, row)
    return number, row


def check_values(place: str, value: Any) -> None:
    """Refuse text that UTF-8 cannot hold, and nesting that code which walks values cannot follow."""
    level = [value]
    for _ in range(_DEPTH):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                following += (*value, *value.values())
            elif isinstance(value, list):
                following += value
            elif isinstance(value, str):
                try:
                    value.encode()
                except UnicodeEncodeError as error:
                    found = f"\\u{ord(value[error.start]):04x} behind {value[: error.start][-20:]!r}"
                    raise BadRowError(
                        place, "half of a surrogate pair", f" ({found}): write the whole character, or delete it"
                    ) from error
        level = following
    if level:
        raise _too_deep(place)


def _too_deep(place: str) -> BadRowError:
    return BadRowError(place, f"nested more than {_DEPTH} levels deep", ": a flat object is expected")


def read_rows(path: Path, bad_rows: BadRows = STRICT) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a local file, whatever of the three formats it has, or of all Parquet files of a folder.

    A line of a text file becomes `{"text": line}`.

    Args:
        path (`Path`): Ends in `.jsonl`, `.json`, `.txt` or `.parquet`, the first three also with `.gz` behind, in
            small letters or capitals; or a folder.
    Returns:
        Iterator of `(place, row)`, the place being "FILE, line N" for messages and source ids.
    """
    if path.is_dir():
        for file in files_of(path):
            yield from _read_parquet(file, bad_rows)
        return
    formats = [suffix for suffix in map(str.lower, path.suffixes) if suffix != ".gz"]
    match formats[-1] if formats else "":
        case ".jsonl" | ".json":
            for number, row in read_json_lines(path, bad_rows):
                yield f"{path}, line {number}", row
        case ".txt":
            for number, line in read_lines(path, bad_rows):
                yield f"{path}, line {number}", {"text": line}
        case ".parquet" if path.suffix.lower() == ".parquet":
            yield from _read_parquet(path, bad_rows)
        case _:
            raise InputError(
                f"{path}: unknown format: .jsonl, .txt and .parquet are read, the first two also as .gz, and a folder "
                "of .parquet"
            )


def files_of(path: Path) -> list[Path]:
    """List the files that a corpus is read from: itself, or the Parquet files of a folder and of those below it."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() == ".parquet"
        and file.is_file()
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)  # caches, marks of success
    )
    if not files:
        raise InputError(f"{path}: a folder without .parquet files: name a file, or a folder that has some")
    return files


def _read_parquet(path: Path, bad_rows: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in _rows_of(batch):
                    number += 1
                    if isinstance(row, dict):
                        yield f"{path}, row {number}", row
                    else:
                        bad_rows.add(BadRowError(f"{path}, row {number}", "values that cannot be read", f" ({row})"))
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = one_line(error)
        raise InputError(f"{path}, after row {number}: damaged Parquet file ({reason}): fetch it again") from error


def _rows_of(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any] | Exception]:
    """Yield the rows of a batch, and an error for a row that is none: text that is no UTF-8, a date beyond all."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except (ValueError, OverflowError) as error:
                yield error
