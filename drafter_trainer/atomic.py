"""Files that appear complete or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes | Callable[[Path], Any]) -> None:
    """Write a file that appears complete or not at all; a callable as content writes to the path that it gets."""
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
    """Write a value as indented JSON, as `write_whole` does."""
    write_whole(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
