"""Read local JSON Lines, text and Parquet files, naming file and line of whatever is wrong in them."""

import gzip
import json
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from drafter_trainer.errors import InputError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, packed with gzip where its name ends in `.gz`.

    Returns:
        Iterator of `(line number from 1, line without its end)`.
    Raises:
        InputError: If the file is missing, not UTF-8, or a damaged gzip stream; the message names file and line, and
            of a wrong encoding the byte and what to do.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = start = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            # Split on line feeds alone: text of the web holds U+2028 and its like inside a line.
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                # ASCII in UTF-16 without a mark is valid UTF-8, with a NUL at every letter.
                if (place := line.find(b"\0")) >= 0:
                    raise InputError(_not_utf8(path, number, start + place, "a NUL", "UTF-16"))
                yield number, text.rstrip("\r\n")
                start += len(line)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        likely = "UTF-16" if error.object[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "WINDOWS-1252"
        raise InputError(_not_utf8(path, number, start + error.start, f"0x{byte:02x}", likely)) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: damaged gzip file ({error}): fetch it again") from error


def _not_utf8(path: Path, number: int, place: int, found: str, likely: str) -> str:
    advice = f"iconv -f {likely} -t UTF-8" + (", if it is Western European" if likely == "WINDOWS-1252" else "")
    return f"{path}, line {number}: not UTF-8 ({found} at byte {place}): convert the file to UTF-8, with {advice}"


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a JSON Lines file.

    Raises:
        InputError: If a line is empty or no JSON object; the message names file and line.
    """
    for number, line in read_lines(path):
        if not line.strip():
            raise InputError(f"{path}, line {number}: empty line: delete it, or write a JSON object there")
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error}): one object a line is expected") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: got a JSON {type(row).__name__}, expected an object")
        yield number, row


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a local file, whatever of the three formats it has.

    A line of a text file becomes `{"text": line}`.

    Args:
        path (`Path`): Ends in `.jsonl`, `.json`, `.txt` or `.parquet`, the first three also with `.gz` behind.
    Returns:
        Iterator of `(place, row)`, the place being "FILE, line N" for messages and source ids.
    Raises:
        InputError: If the format is unknown or the file is malformed.
    """
    formats = [suffix for suffix in path.suffixes if suffix != ".gz"]
    match formats[-1] if formats else "":
        case ".jsonl" | ".json":
            for number, row in read_json_lines(path):
                yield f"{path}, line {number}", row
        case ".txt":
            for number, line in read_lines(path):
                yield f"{path}, line {number}", {"text": line}
        case ".parquet" if path.suffix == ".parquet":
            yield from _read_parquet(path)
        case _:
            raise InputError(f"{path}: unknown format: .jsonl, .txt and .parquet are read, the first two also as .gz")


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
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}, after row {number}: damaged Parquet file ({reason}): fetch it again") from error
