"""Every number on a card is in one of its files."""

import dataclasses
import json
import random
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.hub.card import render_card
from drafter_trainer.languages import LANGUAGES
from drafter_trainer.results import PLAIN, find_method
from tests.hub.test_card import DESCRIPTION, RESULTS

CARDS = sorted(path.parent for path in (Path(__file__).parents[2] / "hub_cards").glob("*/results.json"))
# Numbers that are not measurements: papers, releases, names, and text that is the same on every card.
PROSE = [
    *("arXiv 2406.16758", "abs/2406.16758", "{2406.16758}", "{2605.30580}", "arXiv 2211.17192", "abs/2211.17192"),
    *("{2024}", "{2026}", "yi2024fastmultilingual", "paudel2026acrosslanguages", "transformers (5.23)", "SHA-256"),
    *("95 % bootstrap interval", "below 30", "(95 %)", "batch size 1", "Batch size 1", "batch 1", "includes 1"),
    *("float32", "max_new_tokens=128"),
    *(language.probe for language in LANGUAGES.values()),
]
# Not on a card; among hundreds of figures, any number would be found.
UNSHOWN = {"prompts", "acceptance_by_position", "time_split"}
UNSHOWN |= {"calibration", "sampling_calibration", "pass_milliseconds", "sampling_pass_milliseconds"}
Leaf = tuple[str, Any]  # the last key that leads to a value, and the value


def leaves(value: Any, name: str = "") -> Iterator[Leaf]:
    """Yield all values and keys of a document."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield name, key
            if key == "divergences":  # "2 of 16 outputs differ"
                yield name, len(entry)
            # A count of prompts has the name of the list of prompts.
            if key not in UNSHOWN or isinstance(entry, int):
                yield from leaves(entry, key)
    elif isinstance(value, list):
        for entry in value:
            yield from leaves(entry, name)
    else:
        yield name, value


def derived(run: dict[str, Any]) -> Iterator[Leaf]:
    """Yield the figures that a card computes for an engine: tokens/s over plain, first token in milliseconds."""
    plain = find_method(run, PLAIN)
    for method in run["methods"] if "engine" in run else ():
        yield "", method["tokens_per_second"] / plain["tokens_per_second"]
        yield from (("", share) for share in method["acceptance_by_position"])
        yield "", round(1000 * statistics.median(prompt["first_pass_seconds"] for prompt in method["prompts"]))


def unknown_numbers(card: str, documents: list[dict[str, Any]]) -> list[str]:
    """List the numbers of a card that no document has, in any rounding."""
    found = [leaf for document in documents for leaf in leaves(document)]
    for document in documents:  # "Sampled with 3 seeds" counts runs
        found.append(("", len({run["seed"] for run in document.get("runs", ()) if run["temperature"] > 0})))
        found += [leaf for run in document.get("runs", ()) for leaf in derived(run)]
    # The "+" of a commit with changed files is written in words.
    texts = {value.removesuffix("+") for _, value in found if isinstance(value, str) and re.search(r"\d", value)}
    for phrase in sorted({*PROSE, *texts}, key=len, reverse=True):
        card = re.sub(rf"(?<![\w.]){re.escape(phrase)}(?![\w.]*\w)", " ", card)
    numbers = {value for _, value in found if isinstance(value, int | float) and not isinstance(value, bool)}
    percent = ("_share", "acceptance_rate")
    shares = {f"{value:.0%}" for name, value in found if name.endswith(percent) and value is not None}
    return [
        text
        for text in re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?%?", card)
        if text not in shares and not any(_is_rounded(text, abs(number)) for number in numbers)
    ]


def _is_rounded(text: str, number: float) -> bool:
    decimals = len(text.partition(".")[2])
    if not decimals and "e" not in text:
        return text == f"{number:.0f}" and number == int(number)  # too many would round to a whole number
    return text in (repr(number), f"{number:.4g}", f"{number:.{decimals}f}")


def randomized(value: Any, draw: random.Random) -> Any:
    """Replace all numbers but 0 by random ones; shares stay shares."""
    if isinstance(value, dict):
        return {key: randomized(entry, draw) for key, entry in value.items()}
    if isinstance(value, list):
        return [randomized(entry, draw) for entry in value]
    if not value or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return draw.randint(1001, 9999)
    return draw.uniform(0.1, 0.9) if value < 1 else draw.uniform(11, 99)


def test_rendering_adds_no_number() -> None:
    """With random figures in the files, a number that comes from the code or the template is found."""
    results = {name: randomized(RESULTS["results.json"], random.Random(seed)) for seed, name in enumerate("ab")}
    for method in (method for each in results.values() for method in each["runs"][0]["methods"]):
        method["losslessness"]["equal"] = method["losslessness"]["prompts"]  # a difference would be another number
    documents = [*results.values(), dataclasses.asdict(DESCRIPTION)]
    assert unknown_numbers(render_card(DESCRIPTION, results, "alice/x", "mit"), documents) == []
    planted = render_card(DESCRIPTION, results, "alice/x", "mit", notes="Saves 6 hours, or 61 %, or 1.23x.")
    assert unknown_numbers(planted, documents) == ["6", "61", "1.23"]


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_every_number_is_in_a_file(folder: Path) -> None:
    """A card must have no figure that was typed by hand, or is left from an earlier benchmark."""
    paths = [folder / "drafter.json", folder / "card.json", *sorted(folder.rglob("results.json"))]
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert unknown_numbers((folder / "README.md").read_text(encoding="utf-8"), documents) == []
