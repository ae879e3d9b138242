"""The bundled sample: sentences written for this project in six languages, and subjects of stories."""

import hashlib
import json
from collections.abc import Iterator
from importlib import resources

from drafter_trainer.corpora.catalog import SAMPLE, check_split
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair

SPLITS = ("train", "validation", "test")
LANGUAGES = ("en", "de", "fr", "ru", "ja", "zh")
# The word between the two parts of a subject; Russian repeats the preposition.
_AND = {"en": " and ", "de": " und ", "fr": " et ", "ru": " и о ", "ja": "と", "zh": "和"}
_VALIDATION = 20  # hundredths of the parts of subjects


def sample_rows(split: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a split: `id`, `domain` and one sentence under each language's code."""
    check_split(SAMPLE, SPLITS, split)
    yield from _read(f"{split}.jsonl")


def sample_sentences(pair: Pair, split: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield `(id, source sentence, target sentence)` of a split; the target sentence is `None` for other languages."""
    if pair.source.code not in LANGUAGES:
        raise InputError(
            f"the bundled sample has no {pair.source.name}: use your own corpus and questions, such as "
            "file:sentences.txt and questions.jsonl"
        )
    for row in sample_rows(split):
        yield row["id"], row[pair.source.code], row.get(pair.target.code)


def sample_stories(split: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield `(id, subject)` of the sample's stories; a subject has a text for each language code.

    The subjects of the test split were written by hand. The other subjects combine a character and a thing. Every
    character and every thing belongs to one split only, by a hash of its English text.
    """
    check_split(SAMPLE, SPLITS, split)
    if split == "test":
        for row in _read("stories.jsonl"):
            yield row.pop("id"), row
        return
    parts = [row for row in _read("subjects.jsonl") if (hundredth(row["en"]) < _VALIDATION) == (split == "validation")]
    characters, things = ([row for row in parts if row["id"].startswith(kind)] for kind in ("who", "what"))
    joined = (
        (f"{first['id']}-{second['id']}", {code: first[code] + _AND[code] + second[code] for code in LANGUAGES})
        for first in characters
        for second in things
    )
    # Shuffled, so that the first hundred do not share one character.
    yield from sorted(joined, key=lambda story: _hash(story[1]["en"]))


def hundredth(text: str) -> int:
    """Return a number from 0 to 99 by a hash of a text, which assigns it to a split."""
    return _hash(text) % 100


def _read(name: str) -> Iterator[dict[str, str]]:
    file = resources.files("drafter_trainer.corpora") / "sample" / name
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
