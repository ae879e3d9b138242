"""`outputs.jsonl`: what every method answered to every question, for whoever reads or grades it.

A line is `{temperature, seed, question_id, chat, method, text}`; `chat` holds the messages that were asked, and `text`
the answer without its special tokens.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drafter_trainer.atomic import write_whole

FILE_NAME = "outputs.jsonl"
KEYS = ("temperature", "seed", "question_id", "chat")


def write_outputs(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the answers of records as `measure` returns them."""
    lines = [
        json.dumps({key: record[key] for key in KEYS} | {"method": name, "text": method["text"]}, ensure_ascii=False)
        for record in records
        for name, method in record["methods"].items()
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines))
