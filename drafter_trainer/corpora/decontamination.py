"""Decontamination: removal of training texts that contain evaluation questions."""

import unicodedata
from collections.abc import Iterable
from typing import Any

import regex

OVERLAP = 13  # consecutive units; GPT-3's filter (arXiv 2005.14165, appendix C) counts 13 words

# The standard library's \w lacks combining marks: it would split Nepali, Yoruba and Guarani words at their vowel signs
# and tone marks. A mark belongs to the letter before it. A mark without a letter, as in an emoji, is not a word.
_WORD = regex.compile(r"(?:[\p{L}\p{N}]\p{M}*+)++")
# Joiners inside Nepali or Persian words, soft hyphens, direction marks, variation selectors. U+200B separates words.
_INVISIBLE = regex.compile(r"[\p{Cf}\p{Variation_Selector}--\u200b]+", regex.V1)


def normalize(text: str) -> str:
    """Fold case and width and remove punctuation, so that only words remain, separated by one space."""
    return " ".join(_WORD.findall(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold())))


def units(normalized: str, spaced: bool) -> tuple[str, ...]:
    """Split normalized text into words, or into grapheme clusters if the language has no spaces."""
    return tuple(normalized.split() if spaced else regex.findall(r"\X", normalized.replace(" ", "")))


class Decontaminator:
    """A filter for texts that contain an evaluation question.

    A text contains a question if they share 13 consecutive units, or if one of its lines equals a question of fewer
    units. Units are words, or characters in a language without spaces.

    Args:
        questions (`Iterable[tuple[str, bool]]`): Text of each question, and whether its language has spaces between
            words.
    """

    def __init__(self, questions: Iterable[tuple[str, bool]]) -> None:
        self._runs: dict[bool, set[tuple[str, ...]]] = {}
        self._short: set[str] = set()
        for text, spaced in questions:
            normalized = normalize(text)
            if runs := set(runs_of(units(normalized, spaced))):
                self._runs.setdefault(spaced, set()).update(runs)
            elif normalized:
                self._short.add(normalized.replace(" ", ""))

    def reason(self, text: str) -> str | None:
        """Return why a text must be dropped: "overlap", "exact match", or `None`."""
        lines = [normalize(line) for line in text.splitlines()]
        if not self._short.isdisjoint(line.replace(" ", "") for line in lines):
            return "exact match"
        normalized = " ".join(lines)
        for spaced, known in self._runs.items():
            if not known.isdisjoint(runs_of(units(normalized, spaced))):
                return "overlap"
        return None


def runs_of(sequence: tuple[Any, ...]) -> Iterable[tuple[Any, ...]]:
    """Return all runs of 13 consecutive units of a sequence."""
    return (sequence[start : start + OVERLAP] for start in range(len(sequence) - OVERLAP + 1))
