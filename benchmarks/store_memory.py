"""Resident memory of resuming a distillation and of loading its rows for training, by the number of stored rows.

    python benchmarks/store_memory.py

Two processes read each number of rows. One reads the keys of all rows and the counts of the report, as a resumed
distillation does. The other makes the dataset of finetuning, groups it by tokens and collates a batch, from a cache
that an earlier start has filled. A row has ten tokens with the top 20 of each, because only the number of rows matters
here. A million rows take 1.5 GB of disk space temporarily.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from reporting import RESULTS, report
from tqdm.auto import tqdm

from drafter_trainer.distillation.requests import TOP_K, Completion, Request
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.targets import Target
from drafter_trainer.training.collators import SelfDistilledCollator
from drafter_trainer.training.rows import GroupedRows, load_rows, prepare_rows

TARGET = Target("org/target", "0" * 40, "nowhere")
SHARD, TOKENS = 1000, 10
WAYS = ("distillation", "training")


def main() -> None:
    """Measure each number of rows in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 1_000_000])
    parser.add_argument("--read", type=Path, help="Read this store, and say the peak (what the others start)")
    parser.add_argument("--way", choices=WAYS, help="With --read: as whom")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read, options.way)))
        return
    figures = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / "store", rows)
            peaks = {}
            for way in (*WAYS, WAYS[-1]):  # the first loading fills the cache
                said = subprocess.run(
                    [sys.executable, __file__, "--read", f"{folder}/store", "--way", way],
                    capture_output=True,
                    text=True,
                    check=True,
                    env={"HF_DATASETS_CACHE": f"{folder}/cache", "PATH": ""},
                )
                peaks |= {f"{way}, {name}": value for name, value in json.loads(said.stdout.splitlines()[-1]).items()}
        figures.append({"rows": rows} | peaks)
    growth = {
        f"{way}: growth of peak resident memory, MiB (bar 200)": figures[1][f"{way}, peak MiB"]
        - figures[0][f"{way}, peak MiB"]
        for way in WAYS
    }
    report("store_memory", figures, growth, options.out)


def write(folder: Path, rows: int) -> None:
    """Write a store: one shard as the store writes it, and copies of this shard with other keys."""
    random = np.random.default_rng(0)
    answer = Completion(
        random.integers(0, 1000, TOKENS).tolist(),
        random.integers(0, 1000, (TOKENS, TOP_K)),
        np.full((TOKENS, TOP_K), -3.0, np.float32),
        "stop",
    )
    requests = [
        Request((1, 2, 3, number), 0.0, 0, TOKENS, str(number), "made up", "de-en", TARGET.name, TARGET.revision)
        for number in range(SHARD)
    ]
    RowStore(folder).write([(request, answer) for request in requests], "made up")
    (first,) = folder.glob("rows-*.parquet")
    table = pq.read_table(first)
    for number in tqdm(range(1, rows // SHARD), unit="shard"):
        keys = pa.array([random.bytes(32).hex() for _ in range(SHARD)])
        pq.write_table(table.set_column(0, table.schema.field(0), keys), folder / f"rows-000-{number:06d}.parquet")


def read(folder: Path, way: str) -> dict[str, float]:
    """Read a store as a resumed run does.

    Returns:
        `dict` with the process's peak, and the size of the pages of mapped files in it at the end (on Linux),
        which the system takes back when it needs them, in MiB.
    """
    if way == WAYS[0]:
        store = RowStore(folder)
        done = store.keys()
        assert len(done) == store.count()["rows"]
    else:
        arguments = SimpleNamespace(max_length=128, per_device_train_tokens=4096, seed=0, world_size=1)
        rows = GroupedRows(prepare_rows(load_rows(folder, TARGET)), arguments, filler={})
        SelfDistilledCollator(0, 128)(rows.__getitems__([0]))
    status = Path("/proc/self/status")
    mapped = [line.split()[1] for line in status.open() if line.startswith("RssFile")] if status.is_file() else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak MiB": peak, "of mapped files MiB": int(mapped[0]) / 1024 if mapped else 0.0}


if __name__ == "__main__":
    main()
