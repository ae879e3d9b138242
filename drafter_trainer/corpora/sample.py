"""The bundled sample: sentences written for this project, aligned in six languages, and subjects of stories."""

import json
from collections.abc import Iterator
from importlib import resources

from drafter_trainer.corpora.hub import check_split
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair

SPLITS = ("train", "validation", "test")
LANGUAGES = ("en", "de", "fr", "ru", "ja", "zh")


def sample_rows(split: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a split: `id`, `domain` and one sentence under each language's code.

    Raises:
        InputError: If the split is not one of train, validation, test.
    """
    check_split("sample", SPLITS, split)
    file = resources.files("drafter_trainer.corpora") / "sample" / f"{split}.jsonl"
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def sample_sentences(pair: Pair, split: str) -> Iterator[tuple[str, str, str]]:
    """Yield `(id, source sentence, target sentence)` of a split.

    Raises:
        InputError: If the sample lacks one of the pair's languages.
    """
    missing = [language.name for language in (pair.source, pair.target) if language.code not in LANGUAGES]
    if missing:
        raise InputError(
            f"the bundled sample has no {' or '.join(missing)}: name a corpus and questions of your own, such as "
            "--corpus file:sentences.txt --evaluation_questions questions.jsonl"
        )
    for row in sample_rows(split):
        yield row["id"], row[pair.source.code], row[pair.target.code]


def sample_stories() -> Iterator[tuple[str, str]]:
    """Yield `(id, subject)` of the stories that the sample asks for, the subject in English."""
    file = resources.files("drafter_trainer.corpora") / "sample" / "stories.jsonl"
    with file.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            yield row["id"], row["subject"]
