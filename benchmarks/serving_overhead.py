"""What drafting by lookup and n-gram table takes in an engine's step, by the requests in it.

    python benchmarks/serving_overhead.py

Texts of random tokens, each followed token by token as an engine does, through `serving.batch.BatchDrafter` by stored
costs, with a table counted on other random texts. Timed is the processor's time of one step: the first, which indexes
the prompts, and the median of those that follow, once where tokens are so dear that none is drafted and once where all
that are found are.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
from reporting import RESULTS, report

from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.serving.batch import BatchDrafter

REQUESTS = (1, 4, 16, 64)
PROMPT, VOCABULARY, STEPS, LONGEST = 1000, 500, 30, 8
COSTS = {"dear": [10.0 * tokens for tokens in range(1, 18)], "free": [10.0] * 17}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    chance = random.Random(0)
    texts = [[chance.randrange(VOCABULARY) for _ in range(PROMPT)] for _ in range(100)]
    table = NgramTable(count_table(texts, (1, 2, 3)))
    figures = [measure(requests, name, table) for requests in REQUESTS for name in COSTS]
    report("serving_overhead", figures, {}, options.out)


def measure(requests: int, tokens: str, table: NgramTable) -> dict[str, str | int | float]:
    """Follow texts."""
    chance = random.Random(1)
    drafter = BatchDrafter(None, table, LoopSettings(pass_milliseconds={"cpu": COSTS[tokens]}), "cpu", clock=None)
    rows = [np.array([chance.randrange(VOCABULARY) for _ in range(PROMPT)], dtype=np.int32) for _ in range(requests)]
    taken, drafted = [], []
    for _ in range(STEPS):
        start = time.process_time()
        drafts = drafter.draft(rows, [LONGEST] * requests)
        taken.append(1000 * (time.process_time() - start))
        drafted.append(sum(map(len, drafts)) / requests)
        rows = [np.append(row, np.int32(chance.randrange(VOCABULARY))) for row in rows]
    return {
        "requests": requests,
        "tokens are": tokens,
        "drafted for each": float(np.mean(drafted)),
        "first step, ms": taken[0],
        "a step, ms": float(np.median(taken[1:])),
    }


if __name__ == "__main__":
    main()
