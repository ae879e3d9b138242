"""Keep evaluation questions out of what is trained on."""

import re
import unicodedata
from collections.abc import Iterable

OVERLAP = 13  # units in a row; GPT-3's filter (arXiv 2005.14165, appendix C) counts 13 words

_NOT_A_WORD = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Fold case, width and punctuation away, so that only words remain, one space between them."""
    return _NOT_A_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def units(normalised: str, spaced: bool) -> tuple[str, ...]:
    """Split normalised text into words, or into characters where the language writes without spaces."""
    return tuple(normalised.split()) if spaced else tuple(normalised.replace(" ", ""))


class Decontaminator:
    """Tell whether a text holds an evaluation question.

    A text does if 13 units in a row stand in both, or if one of its lines equals a question of fewer units. Units
    are words, and characters in a language without spaces.

    Args:
        questions (`Iterable[tuple[str, bool]]`): Text of each question, and whether its language sets words apart by
            spaces.
    """

    def __init__(self, questions: Iterable[tuple[str, bool]]) -> None:
        self._runs: dict[bool, set[tuple[str, ...]]] = {}
        self._short: set[str] = set()
        for text, spaced in questions:
            normalised = normalise(text)
            runs = set(_runs(units(normalised, spaced)))
            if runs:
                self._runs.setdefault(spaced, set()).update(runs)
            elif normalised:
                self._short.add(normalised.replace(" ", ""))

    def reason(self, text: str) -> str | None:
        """Return why a text must be dropped: "overlap", "exact match", or `None` if it is clean."""
        for line in text.splitlines():
            if normalise(line).replace(" ", "") in self._short:
                return "exact match"
        normalised = normalise(text)
        for spaced, known in self._runs.items():
            if not known.isdisjoint(_runs(units(normalised, spaced))):
                return "overlap"
        return None


def _runs(sequence: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (sequence[start : start + OVERLAP] for start in range(len(sequence) - OVERLAP + 1))
