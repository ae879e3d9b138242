"""Read local JSON Lines, text and Parquet files, naming file and line of whatever is wrong in them."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from drafter_trainer.errors import InputError, one_line

# A NUL is a letter in UTF-16; a byte that is no UTF-8 is read as a lone surrogate, so that its line can be named.
_NOT_UTF8 = re.compile("[\0\udc80-\udcff]")


class BadRowError(InputError):
    """Raise when one row of a corpus cannot be used.

    Args:
        reason (`str`): What is wrong, in one of few wordings: what is left out is counted under it.
    """

    def __init__(self, place: str, reason: str, advice: str = "") -> None:
        super().__init__(place, reason, advice)  # all of them, to be made again by the pool of processes it came from
        self.reason = reason

    def __str__(self) -> str:
        return "{}: {}{}".format(*self.args)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, unpacked with gzip where its name ends in `.gz`.

    Lines end as on Unix, Windows or an old Mac, and nowhere else: text of the web holds U+2028 and its like inside a
    line. A byte order mark may begin any line, since files are joined end to end.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = 0
    try:
        opened = gzip.open if path.suffix.lower() == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if found := _NOT_UTF8.search(line):
                    byte, before = ord(found[0]) & 0xFF, line[: found.start()][-20:]
                    likely = "UTF-16" if byte in (0x00, 0xFE, 0xFF) else "WINDOWS-1252"
                    advice = f"convert the file, if it is {likely} with iconv -f {likely} -t UTF-8"
                    said = f" (byte 0x{byte:02x} behind {before!r}): {advice}"
                    raise BadRowError(f"{path}, line {number}", "not UTF-8", said)
                yield number, line.removeprefix("\ufeff").rstrip("\n")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: damaged gzip file ({error}): fetch it again") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a JSON Lines file."""
    for number, line in read_lines(path):
        yield number, _parse(f"{path}, line {number}", line)


def _parse(place: str, line: str) -> dict[str, Any]:
    if not line.strip():
        raise BadRowError(place, "empty line", ": delete it, or write a JSON object there")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRowError(place, "not JSON", f" ({error}): one object a line is expected") from error
    if not isinstance(row, dict):
        raise BadRowError(place, f"got a JSON {type(row).__name__}", ", expected an object")
    check_values(place, row)
    return row


def check_values(place: str, value: Any) -> None:
    """Refuse text that UTF-8 cannot hold, which JSON can write."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(error.object[error.start]):04x} behind {error.object[: error.start][-20:]!r}"
        advice = f" ({found}): write the whole character, or delete it"
        raise BadRowError(place, "half of a surrogate pair", advice) from error
    except RecursionError as error:
        raise BadRowError(place, "nested too deep", ": a flat object is expected") from error


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
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
            yield from _read_parquet(file)
        return
    formats = [suffix for suffix in map(str.lower, path.suffixes) if suffix != ".gz"]
    match formats[-1] if formats else "":
        case ".jsonl" | ".json":
            for number, row in read_json_lines(path):
                yield f"{path}, line {number}", row
        case ".txt":
            for number, line in read_lines(path):
                yield f"{path}, line {number}", {"text": line}
        case ".parquet" if path.suffix.lower() == ".parquet":
            yield from _read_parquet(path)
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


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (ValueError, OverflowError, OSError) as error:  # of text that is no UTF-8, and of a date beyond all, too
        reason = one_line(error)
        raise InputError(f"{path}, after row {number}: damaged Parquet file ({reason}): fetch it again") from error
