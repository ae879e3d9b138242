"""What a target's own translations are worth, which every page of speedups says first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drafter_trainer.languages import get_pair
from drafter_trainer.results import PLAIN, find_method, read_results

MOST_LOOPING, LEAST_IN_LANGUAGE = 0.1, 0.9  # of plain outputs
# Below it a translation shares hardly more with its reference than any text in the same language does.
_LEAST_CHRF = 30.0


@dataclass(frozen=True)
class TargetQuality:
    """The scores of a target's plain greedy translations in one pair.

    Args:
        target (`str`): Name of the target.
        pair (`str`): Pair of the translations.
        questions (`str`): Name of the questions.
        answers (`int`): Number of translations that were scored.
        bleu, chrf (`float`): Scores, between 0 and 100.
    """

    target: str
    pair: str
    questions: str
    answers: int
    bleu: float
    chrf: float

    def __str__(self) -> str:
        pair = get_pair(self.pair)
        return (
            f"BLEU {self.bleu:.1f} and chrF {self.chrf:.1f} from {pair.source.name} to {pair.target.name} "
            f"({self.answers} sentences of {self.questions})"
        )


def beyond_limits(run: dict[str, Any]) -> list[str]:
    """List why a run's speedups are those of a target that does not do its task.

    More than a tenth of the plain outputs loop or leave the expected language, or greedy translations score below chrF
    30. Such a run stays out of the README, of the gallery's first part and of `model-index`.

    Args:
        run (`dict`): Of a results file.
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


def is_showcase(results: dict[str, Any]) -> bool:
    """Return whether it is known of every run of a results file that its target does the task."""
    runs = results["runs"]
    known = all("language_share" in run or "quality" in find_method(run, PLAIN) for run in runs)
    return known and not any(map(beyond_limits, runs))


def find_qualities(measured: Iterable[dict[str, Any]]) -> list[TargetQuality]:
    """Collect the scores of plain greedy translations.

    Args:
        measured (`Iterable[dict]`): Results files.
    """
    found = []
    for results in measured:
        for run in results["runs"]:
            said = find_method(run, PLAIN).get("quality")
            if said and run["task"] == "translation" and run["temperature"] == 0:
                values = run["questions"]["source"], said["answers"], said["bleu"], said["chrf"]
                found.append(TargetQuality(_target(results), run["pair"], *values))
    return found


def read_qualities(cards: Path) -> list[TargetQuality]:
    """Read the scores of all targets out of the results of published drafters, `hub_cards/*/results.json`."""
    return find_qualities(map(read_results, sorted(cards.glob("*/results.json"))))


def quality_warning(measured: Iterable[dict[str, Any]], known: Sequence[TargetQuality] = ()) -> str:
    """Say that the targets of some results do not translate, where that was measured.

    Args:
        measured (`Iterable[dict]`): The results that a page shows.
        known (`Sequence[TargetQuality]`, *optional*): Scores of other results, for targets that these do not score.
    Returns:
        `str`, a paragraph; empty if no target is known to fail.
    """
    measured = list(measured)
    own, failed = find_qualities(measured), {}
    for target in dict.fromkeys(map(_target, measured)):
        scores = [each for each in own if each.target == target] or [each for each in known if each.target == target]
        if low := [str(each) for each in scores if each.chrf < _LEAST_CHRF]:
            failed[target] = f"{target} scores {', '.join(dict.fromkeys(low))}."
    if not failed:
        return ""
    noun, verb, whose = ("target", "does", "its") if len(failed) == 1 else ("targets", "do", "their")
    return (
        f"**The {noun} of the numbers on this page {verb} not translate.** {' '.join(failed.values())} The speedups "
        f"compare methods on {whose} real output. They say nothing about a target that does its task."
    )


def _target(results: dict[str, Any]) -> str:
    return results["provenance"].get("target", "the target").partition("@")[0]
