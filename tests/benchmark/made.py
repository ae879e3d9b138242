"""Results with hand-written times, as a benchmark writes them."""

from collections.abc import Sequence
from typing import Any

from drafter_trainer.benchmark.measure import Setting
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.summary import summarize_run
from drafter_trainer.results import PLAIN, SCHEMA_VERSION, check_results

PROVENANCE = {
    "command": "bench.py --config c.yaml",
    "commit": "0123abc",
    "date": "2026-01-01T00:00:00+00:00",
    "device": {"type": "cpu", "name": "a processor", "runtime": "2 threads"},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "target": "tests/tiny-target@1",
    "drafter": "tiny-drafter-de-en",
    "drafter_revision": "sha256:0",
    "drafter_fingerprint": "0",
}

DESCRIPTION = {"pair": "de-en", "task": "translation", "draft_length": 3, "dtype": "float32"}
DESCRIPTION |= {"questions": {"source": "made up", "count": 4, "sha256": "0"}}


def make_run(
    seconds: dict[str, Sequence[float]], tokens: int = 10, temperature: float = 0.0, **other: Any
) -> dict[str, Any]:
    """Make a run in which each prompt has the given number of tokens.

    Args:
        seconds (`dict[str, Sequence[float]]`): Seconds of each prompt, by method. All methods but plain decoding draft
            for 0.1 s and have 0.2 s of overhead per prompt; their first round accepts two of three drafted tokens.
        other: Keys of the run.
    """
    count = len(seconds[PLAIN])
    records = []
    for number in range(count):
        figures = {}
        for name, all_seconds in seconds.items():
            took, drafts = all_seconds[number], 0 if name == PLAIN else 3
            rounds = [{"drafted": drafts, "accepted": drafts // 3 * 2, "rejected": drafts > 0}]
            rest = {"drafted": 0, "accepted": 0, "rejected": False}
            draft_seconds, overhead = (0.0, 0.0) if name == PLAIN else (0.1, 0.2)
            figures[name] = {
                "tokens": tokens,
                "characters": 4 * tokens,
                "retokenised": tokens - 1,
                "seconds": took,
                "looping": False,
                "rounds": rounds + [rest] * (tokens - 1 - drafts // 3 * 2),
                "draft_seconds": draft_seconds,
                "verification_seconds": took - draft_seconds - overhead,
                "first_pass_seconds": took / 10,
            }
            if temperature == 0:
                figures[name]["divergence"] = None
        records.append({"question_id": f"q{number}", "methods": figures})
    methods = [Method(name, 0 if name == PLAIN else 3) for name in seconds]
    described = DESCRIPTION | {"questions": DESCRIPTION["questions"] | {"count": count}}
    seed = other.pop("seed", 0)
    return summarize_run(records, methods, Setting(temperature, seed, 128), described | other)


def make_results(*runs: dict[str, Any], **provenance: Any) -> dict[str, Any]:
    results = {"schema_version": SCHEMA_VERSION, "provenance": PROVENANCE | provenance, "runs": list(runs)}
    check_results(results, "made.json")
    return results
