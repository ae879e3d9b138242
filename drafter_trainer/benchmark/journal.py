"""Journals: a line for each piece of work that is done, from which an interrupted run goes on."""

import json
import os
from pathlib import Path
from typing import Any


def read_journal(journal: Path) -> list[dict[str, Any]]:
    """Read a journal's records, none where there is no journal; a last line that was cut off is cut away."""
    if not journal.is_file():
        return []
    records, whole = [], 0
    with journal.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # the run was killed within this line: its work is done again
            records.append(json.loads(line))
            whole += len(line)
    with journal.open("r+b") as file:
        file.truncate(whole)
    return records


def append_record(journal: Path, record: dict[str, Any]) -> None:
    """Write a record down for good."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
