"""Keep evaluation questions out of what is trained on."""

import unicodedata
from collections.abc import Iterable
from typing import Any

import regex

OVERLAP = 13  # units in a row; GPT-3's filter (arXiv 2005.14165, appendix C) counts 13 words

# The standard library's \w leaves out combining marks: it would split Nepali, Yoruba and Guarani words at their vowel
# signs and tones. A mark counts with the letter before it, and a mark without one, such as an emoji's, is no word.
_WORD = regex.compile(r"(?:[\p{L}\p{N}]\p{M}*+)++")
# Joiners inside words of Nepali or Persian, soft hyphens, marks of direction and variants; U+200B parts words.
_INVISIBLE = regex.compile(r"[\p{Cf}\p{Variation_Selector}--\u200b]+", regex.V1)


def normalise(text: str) -> str:
    """Fold case, width and punctuation away, so that only words remain, one space between them."""
    return " ".join(_WORD.findall(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold())))


def units(normalised: str, spaced: bool) -> tuple[str, ...]:
    """Split normalised text into words, or into what readers take for characters where there are no spaces."""
    return tuple(normalised.split() if spaced else regex.findall(r"\X", normalised.replace(" ", "")))


class Decontaminator:
    """A filter for texts that contain an evaluation question.

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
            runs = set(runs_of(units(normalised, spaced)))
            if runs:
                self._runs.setdefault(spaced, set()).update(runs)
            elif normalised:
                self._short.add(normalised.replace(" ", ""))

    def reason(self, text: str) -> str | None:
        """Return why a text must be dropped: "overlap", "exact match", or `None` if it is clean."""
        lines = [normalise(line) for line in text.splitlines()]
        if not self._short.isdisjoint(line.replace(" ", "") for line in lines):
            return "exact match"
        normalised = " ".join(lines)
        for spaced, known in self._runs.items():
            if not known.isdisjoint(runs_of(units(normalised, spaced))):
                return "overlap"
        return None


def runs_of(sequence: tuple[Any, ...]) -> Iterable[tuple[Any, ...]]:
    """Return what stands in a row in a sequence, 13 units each."""
    return (sequence[start : start + OVERLAP] for start in range(len(sequence) - OVERLAP + 1))
