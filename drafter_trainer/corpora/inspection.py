"""Checks of a text before training: too few lines, repeated lines, or the wrong language."""

import functools
import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drafter_trainer.corpora.files import read_rows
from drafter_trainer.errors import InputError
from drafter_trainer.extras import require
from drafter_trainer.languages import Language, get_language

LEAST_LINES = 100  # distinct lines, of which 2 % are held out to choose settings
_INSPECTED = 200_000  # first lines of a file
_IDENTIFIED = 1000  # distinct lines whose language is identified, at about 0.1 ms each
_CHARACTERS = 1000  # first characters of a line, by which its language is identified
_CONFIDENT = 0.5
_NO_LANGUAGE = "zxx"  # ISO 639's code; the identifier also returns it for scripts that it does not know
# Further labels that the identifier gives to a language: dialects, and Kabyle for all Berber languages.
_LABELS = {"zh": ("wuu", "yue"), "ber": ("kab",)}


def inspect_text(path: Path, language: Language) -> None:
    """Raise an error if a file has too little text, or text in another language.

    Args:
        path (`Path`): As for `read_rows`, with rows of `text`; other rows are ignored.
    """
    counts: Counter[str] = Counter()
    chosen = heapq.nsmallest(_IDENTIFIED, _distinct_lines(path, counts))  # by hash: the same lines in every run
    lines, distinct = counts["lines"], counts["distinct"]
    if not lines:
        raise InputError(f"{path}: no text: write a sentence or a paragraph of {language.name} per line")
    if 2 * distinct < lines:
        raise InputError(
            f"{path}: {lines - distinct:,} of {lines:,} lines repeat an earlier line, and a drafter would learn only "
            "these: keep each line once"
        )
    if distinct < LEAST_LINES:
        raise InputError(
            f"{path}: {distinct} different lines, but at least {LEAST_LINES} are needed, since 2 % are held out to "
            "choose settings: add text, a sentence or a paragraph per line"
        )
    own = {language.code, *language.aliases, *_LABELS.get(language.code, ())}
    known = not own.isdisjoint(language_identifier().labels)
    labels = (language_identifier().classify(text[:_CHARACTERS]) for _, text in chosen)
    # The identifier gives an unknown language the labels of various other languages, rarely with confidence.
    others = Counter(
        label
        for label, confidence in labels
        if label not in own and (known or (confidence >= _CONFIDENT and label != _NO_LANGUAGE))
    )
    if 2 * others.total() > len(chosen):
        most = others.most_common(1)[0][0]
        name = "no language" if most == _NO_LANGUAGE else get_language(most).name
        raise InputError(
            f"{path}: {others.total() / len(chosen):.0%} of its lines seem to be in another language than "
            f"{language.name}, most often in {name}: name the actual language of the text, or another file"
        )


def _distinct_lines(path: Path, counts: Counter[str]) -> Iterator[tuple[bytes, str]]:
    """Yield each text once, with its hash; count all lines and the distinct lines."""
    seen: set[bytes] = set()
    for _, row in read_rows(path):
        text = row.get("text")
        if not isinstance(text, str) or not (text := text.strip()):
            continue
        counts["lines"] += 1
        digest = hashlib.sha256(text.encode()).digest()[:8]
        if digest not in seen:
            seen.add(digest)
            counts["distinct"] += 1
            yield digest, text
        if counts["lines"] == _INSPECTED:
            return


@functools.cache
def language_identifier() -> Any:
    """Load py3langid's model once, with normalized probabilities, unlike its module functions."""
    langid = require("py3langid.langid", "languages")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
