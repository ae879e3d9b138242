"""The bundled sample: sentences written for this project, aligned in six languages, and subjects of stories."""

import hashlib
import json
from collections.abc import Iterator
from importlib import resources

from drafter_trainer.corpora.hub import check_split
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair

SPLITS = ("train", "validation", "test")
LANGUAGES = ("en", "de", "fr", "ru", "ja", "zh")
# Between the two parts of a subject; Russian repeats the preposition before it.
_AND = {"en": " and ", "de": " und ", "fr": " et ", "ru": " и о ", "ja": "と", "zh": "和"}
_VALIDATION = 20  # hundredths of the parts of subjects


def sample_rows(split: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a split: `id`, `domain` and one sentence under each language's code."""
    check_split("sample", SPLITS, split)
    yield from _read(f"{split}.jsonl")


def sample_sentences(pair: Pair, split: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield `(id, source sentence, target sentence)` of a split; no target sentence where the sample has none."""
    if pair.source.code not in LANGUAGES:
        raise InputError(
            f"the bundled sample has no {pair.source.name}: name a corpus and questions of your own, such as "
            "file:sentences.txt and questions.jsonl"
        )
    for row in sample_rows(split):
        yield row["id"], row[pair.source.code], row.get(pair.target.code)


def sample_stories(split: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield `(id, subject)` of the stories that the sample asks for, the subject by language code.

    Those of the test split were written one by one. Those of the others join one of those whom a story is about with
    one of those things that it is about; each of both belongs to one split, by a hash of its English text, so that
    validation asks about nothing that was trained on.
    """
    check_split("sample", SPLITS, split)
    if split == "test":
        for row in _read("stories.jsonl"):
            yield row.pop("id"), row
        return
    parts = [
        row for row in _read("subjects.jsonl") if (_hash(row["en"]) % 100 < _VALIDATION) == (split == "validation")
    ]
    who, what = ([row for row in parts if row["id"].startswith(kind)] for kind in ("who", "what"))
    joined = (
        (f"{first['id']}-{second['id']}", {code: first[code] + _AND[code] + second[code] for code in LANGUAGES})
        for first in who
        for second in what
    )
    # Mixed, so that the first hundred are not about one alone.
    yield from sorted(joined, key=lambda story: _hash(story[1]["en"]))


def _read(name: str) -> Iterator[dict[str, str]]:
    file = resources.files("drafter_trainer.corpora") / "sample" / name
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
