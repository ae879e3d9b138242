"""Reading of local JSON Lines, text and Parquet files; errors name the file and line."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from drafter_trainer.errors import InputError, one_line

# Invalid bytes are read as lone surrogates, so that the error can name their line. UTF-16 text contains NUL.
_NOT_UTF8 = re.compile("[\0\udc80-\udcff]")


class BadRowError(InputError):
    """An error in one row of a corpus.

    Args:
        reason (`str`): One of a few fixed phrases; dropped rows are counted by reason.
    """

    def __init__(self, location: str, reason: str, advice: str = "") -> None:
        super().__init__(location, reason, advice)  # with all arguments the error can be pickled for another process
        self.reason = reason

    def __str__(self) -> str:
        return "{}: {}{}".format(*self.args)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, or of a gzip file that ends in `.gz`.

    Only line feeds and carriage returns end a line, since text from the web has U+2028 and the like inside lines. Any
    line may begin with a byte order mark, since files may be concatenated.
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
                    advice = f"convert the file, from {likely} with iconv -f {likely} -t UTF-8"
                    details = f" (byte 0x{byte:02x} after {before!r}): {advice}"
                    raise BadRowError(f"{path}, line {number}", "not UTF-8", details)
                yield number, line.removeprefix("\ufeff").rstrip("\n")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: damaged gzip file ({error}): download it again") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a JSON Lines file."""
    for number, line in read_lines(path):
        location = f"{path}, line {number}"
        if not line.strip():
            raise BadRowError(location, "empty line", ": delete it, or write a JSON object there")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRowError(location, "not JSON", f" ({error}): expected one object per line") from error
        if not isinstance(row, dict):
            raise BadRowError(location, f"got a JSON {type(row).__name__}", ", expected an object")
        check_values(location, row)
        yield number, row


def check_values(location: str, value: Any) -> None:
    """Raise an error if a text cannot be encoded as UTF-8: JSON allows lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(error.object[error.start]):04x} after {error.object[: error.start][-20:]!r}"
        advice = f" ({found}): write the whole character, or delete it"
        raise BadRowError(location, "half of a surrogate pair", advice) from error
    except RecursionError as error:
        raise BadRowError(location, "nested too deeply", ": expected a flat object") from error


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a local file, or of all Parquet files in a folder. A line of text becomes `{"text": line}`.

    Args:
        path (`Path`): A folder, or a file that ends in `.jsonl`, `.json`, `.txt` (also with `.gz`) or `.parquet`, in
            lower or upper case.
    Returns:
        Iterator of `(location, row)`. The location is "FILE, line N", for error messages and source ids.
    """
    if path.is_dir():
        for file in files_of(path):
            yield from _read_parquet(file)
        return
    formats = [suffix for suffix in map(str.lower, path.suffixes) if suffix != ".gz"]
    match formats[-1] if formats else "":
        case ".jsonl" | ".json":
            yield from ((f"{path}, line {number}", row) for number, row in read_json_lines(path))
        case ".txt":
            yield from ((f"{path}, line {number}", {"text": line}) for number, line in read_lines(path))
        case ".parquet" if path.suffix.lower() == ".parquet":
            yield from _read_parquet(path)
        case _:
            raise InputError(
                f"{path}: unknown format, expected .jsonl, .jsonl.gz, .txt, .txt.gz, .parquet, or a folder of "
                ".parquet files"
            )


def files_of(path: Path) -> list[Path]:
    """List the files of a corpus: the file itself, or the Parquet files of a folder and its subfolders."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() == ".parquet"
        and file.is_file()
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)  # caches, success markers
    )
    if not files:
        raise InputError(f"{path}: a folder without .parquet files: name a file, or another folder")
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
    except (ValueError, OverflowError, OSError) as error:  # also text that is not UTF-8, and dates out of range
        reason = one_line(error)
        raise InputError(f"{path}, after row {number}: damaged Parquet file ({reason}): download it again") from error
