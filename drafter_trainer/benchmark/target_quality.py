"""Whether a target does the task that its speedups are measured on."""

from collections.abc import Iterable
from typing import Any

from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.results import PLAIN, MeasuredRun, Results, find_method

MOST_LOOPING, LEAST_IN_LANGUAGE = 0.1, 0.9  # of plain outputs
# Below it a translation shares hardly more with its reference than any text in the same language does.
_LEAST_CHRF = 30.0


def beyond_limits(run: MeasuredRun) -> list[str]:
    """List why a run's speedups are those of a target that does not do its task.

    More than a tenth of the plain outputs loop or leave the expected language, or greedy translations score below chrF
    30. Such a run stays out of the README, of the gallery's first part and of `model-index`.

    Returns:
        `list` of reasons, empty where there is none or nothing is known.
    """
    plain, reasons = find_method(run, PLAIN), []
    if plain["looping_share"] > MOST_LOOPING:
        reasons.append(f"{plain['looping_share']:.0%} of the plain outputs loop")
    if run.get("language_share", 1.0) < LEAST_IN_LANGUAGE:
        reasons.append(f"{1 - run['language_share']:.0%} of the plain outputs are in another language")
    quality = plain.get("quality")
    if quality and run["task"] == "translation" and run["temperature"] == 0 and quality["chrf"] < _LEAST_CHRF:
        reasons.append(f"the plain translations score chrF {quality['chrf']:.1f}, below {_LEAST_CHRF:.0f}")
    return reasons


def is_showcase(results: Results) -> bool:
    """Return whether it is known of every run of a results file that its target does the task."""
    runs = results["runs"]
    known = all("language_share" in run or "quality" in find_method(run, PLAIN) for run in runs)
    return known and not any(map(beyond_limits, runs))


def quality_warning(measured: Iterable[dict[str, Any]]) -> str:
    """State in which runs the target does not do its task.

    Returns:
        `str`, a paragraph; empty if no run is beyond the limits.
    """
    runs = [run for results in measured for run in results["runs"]]
    failed = [
        f"{run['pair']} {run['task']}, {describe_sampling(run['temperature'], run['seed'])}: {', '.join(reasons)}"
        for run in runs
        if (reasons := beyond_limits(run))
    ]
    if not failed:
        return ""
    return (
        f"**The target does not do its task in {len(failed)} of {len(runs)} runs** ({'; '.join(failed)}). Speedups on "
        "such output do not carry over to a target that does."
    )
