"""Find out what is wrong with a text before hours are spent on it: too little of it, repeated, or another language."""

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

LEAST_LINES = 100  # different ones: 2 % are held out for validation, and settings are chosen on them
_INSPECTED = 200_000  # lines from the first on
_IDENTIFIED = 1000  # different lines whose language is identified, at about 0.1 ms each
_CHARACTERS = 1000  # of a line, that are looked at
_SURE = 0.5
_NO_LANGUAGE = "zxx"  # ISO 639's code for what is none; letters of a script that the identifier never saw are that too
# What the identifier calls some languages, beside their own codes: dialects, and Kabyle for all that is Berber.
_LABELS = {"zh": ("wuu", "yue"), "ber": ("kab",)}


def inspect_text(path: Path, language: Language) -> None:
    """Refuse a file that is no text to train a drafter of a language on.

    Args:
        path (`Path`): As `read_rows` takes it, with rows of `text`; rows without are left aside.
    """
    counts: Counter[str] = Counter()
    chosen = heapq.nsmallest(_IDENTIFIED, _different_lines(path, counts))  # by hash: the same lines in every run
    lines, different = counts["lines"], counts["different"]
    if not lines:
        raise InputError(f"{path}: no text: give a sentence or a paragraph of {language.name} a line")
    if 2 * different < lines:
        raise InputError(
            f"{path}: {lines - different:,} of {lines:,} lines repeat an earlier one: a drafter would learn these "
            "alone, so leave each line in once"
        )
    if different < LEAST_LINES:
        raise InputError(
            f"{path}: {different} different lines, at least {LEAST_LINES} are needed, since 2 % are held out to "
            "choose settings on: add text, a sentence or a paragraph a line"
        )
    texts = [text[:_CHARACTERS] for _, text in chosen]
    _check_language(path, texts, language)


def _different_lines(path: Path, counts: Counter[str]) -> Iterator[tuple[bytes, str]]:
    """Yield each text with its hash once; count lines, and different ones."""
    seen: set[bytes] = set()
    for _, row in read_rows(path):
        text = row.get("text")
        if not isinstance(text, str) or not (text := text.strip()):
            continue
        counts["lines"] += 1
        digest = hashlib.sha256(text.encode()).digest()[:8]
        if digest not in seen:
            seen.add(digest)
            counts["different"] += 1
            yield digest, text
        if counts["lines"] == _INSPECTED:
            return


def _check_language(path: Path, texts: list[str], language: Language) -> None:
    own = {language.code, *language.aliases, *_LABELS.get(language.code, ())}
    known = not own.isdisjoint(language_identifier().labels)
    # A language that the identifier does not know, it takes for this one and that one, and is hardly ever sure.
    others = Counter(
        label
        for label, confidence in map(language_identifier().classify, texts)
        if label not in own and (known or (confidence >= _SURE and label != _NO_LANGUAGE))
    )
    if 2 * others.total() > len(texts):
        (most, _), *_ = others.most_common(1)
        taken = "no language" if most == _NO_LANGUAGE else get_language(most).name
        raise InputError(
            f"{path}: {others.total() / len(texts):.0%} of its lines are taken for another language than "
            f"{language.name}, most often for {taken}: name the language that the text is in, or "
            "another file"
        )


@functools.cache
def language_identifier() -> Any:
    """Load py3langid's model, once: its own functions share one with everybody, which gives no probabilities."""
    langid = require("py3langid.langid", "languages")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
