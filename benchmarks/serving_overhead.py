"""Time of drafting with lookup and n-gram table in an engine's step, by the number of requests.

    python benchmarks/serving_overhead.py

Texts of random tokens are passed token by token to `serving.batch.BatchDrafter`, as an engine does, with stored costs
and with a table of other random texts. The script measures the processor time of the first step, which indexes the
prompts, and the median of the later steps: once with costs at which nothing is drafted, and once with costs at which
every proposal is drafted.
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
    """Time the steps over texts."""
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
