"""Files and folders that appear complete or not at all, and the hash of a file."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes | Callable[[Path], Any]) -> None:
    """Write a file that appears complete or not at all; `content` may be a function that writes to a given path."""
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write a value as indented JSON to a file that appears complete or not at all."""
    write_whole(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_folder(destination: Path, folder: Path) -> None:
    """Rename a temporary folder to its destination, and replace the folder that is there."""
    if destination.exists():
        destination.rename(folder.with_name("replaced"))
    folder.rename(destination)


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str = "new") -> Iterator[Path]:
    """Yield the path of a folder to make, on the disk of `parent`; it is deleted after the block unless renamed."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=parent) as temporary:
        yield Path(temporary) / name


@contextlib.contextmanager
def whole_folder(destination: Path, name: str = "new") -> Iterator[Path]:
    """Yield the path of a folder to make, which replaces `destination` after the block, unless an exception is raised.

    Args:
        name (`str`, *optional*): Name of the folder during the block.
    """
    with temporary_folder(destination.parent, name) as folder:
        yield folder
        replace_folder(destination, folder)
