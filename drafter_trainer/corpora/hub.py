"""Corpora on the Hugging Face Hub, by name: where each lies and what its columns are called."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
from huggingface_hub.errors import HTTPError  # of the HTTP library that the client uses

from drafter_trainer.errors import InputError, one_line
from drafter_trainer.languages import Pair


@dataclass(frozen=True)
class HubCorpus:
    """Describe a corpus on the Hub.

    Args:
        pairs (`tuple[str, ...]`): Pairs of a parallel corpus, foreign language first; empty for text.
        data_files (`str`, *optional*): The one file to read, where the repository holds several versions.
        columns (`Callable`, *optional*): Takes a row and a pair to `(source, target)` where the corpus does not
            follow the `translation: {de: …, en: …}` schema.
    """

    repo: str
    license: str
    splits: tuple[str, ...]
    pairs: tuple[str, ...] = ()
    data_files: str | None = None
    columns: Callable[[dict[str, Any], Pair], tuple[str, str]] | None = None
    options: dict[str, Any] = field(default_factory=dict)


def _english_names(row: dict[str, Any], pair: Pair) -> tuple[str, str]:
    return row[pair.source.name.lower()], row[pair.target.name.lower()]


PARALLEL_CORPORA = {
    "wmt14": HubCorpus("wmt/wmt14", "unknown", ("train", "validation", "test"), ("fr-en",)),
    "wmt16": HubCorpus("wmt/wmt16", "unknown", ("train", "validation", "test"), ("de-en", "ru-en")),
    "wmt19": HubCorpus("wmt/wmt19", "unknown", ("train", "validation"), ("zh-en",)),
    "jparacrawl": HubCorpus(
        "Verah/JParaCrawl-Filtered-English-Japanese-Parallel-Corpus",
        "NTT, research use only",
        ("train",),
        ("ja-en",),
        columns=_english_names,
        # A sentence such as None or N/A is a sentence: by default the reader of tables takes it for a missing value.
        options={"keep_default_na": False},
    ),
}

TEXT_CORPORA = {
    # The argument behind the colon is the language: c4, c4:de
    "c4": HubCorpus("allenai/c4", "odc-by", ("train", "validation")),
    # The repository holds two collections that overlap; the paper's is this one. A JSON array this large is read
    # whole before its first row comes (464 MB, about 3 GB of memory): convert it to JSON Lines for `file:`.
    "sharegpt": HubCorpus(
        "Aeala/ShareGPT_Vicuna_unfiltered",
        "apache-2.0",
        ("train",),
        data_files="ShareGPT_V4.3_unfiltered_cleaned_split.json",
    ),
}


def stream(corpus: HubCorpus, config: str | None, split: str, revision: str | None) -> Iterator[dict[str, Any]]:
    """Stream the rows of one split without downloading the whole corpus first."""
    try:
        dataset = datasets.load_dataset(
            corpus.repo,
            config,
            data_files=corpus.data_files,
            split=split,
            revision=revision,
            streaming=True,
            **corpus.options,
        )
        # Files are opened only here, so a damaged one, or a Hub that is gone by now, shows here.
        yield from dataset
    except (ValueError, OSError, EOFError, zlib.error, HTTPError, datasets.exceptions.DatasetsError) as error:
        reason = one_line(error)
        raise InputError(f"{corpus.repo} ({config or 'default'}, {split}) cannot be read: {reason}") from error


def parallel_rows(name: str, pair: Pair, split: str, revision: str | None) -> Iterator[tuple[str, str]]:
    """Stream `(source, target)` sentences of a named parallel corpus, in either direction."""
    corpus = PARALLEL_CORPORA[name]
    forward, backward = str(pair), f"{pair.target.code}-{pair.source.code}"
    config = forward if forward in corpus.pairs else backward if backward in corpus.pairs else None
    if config is None:
        raise InputError(f"corpus {name} has no pair {pair}: it has {', '.join(corpus.pairs)}")
    check_split(name, corpus.splits, split)
    columns = corpus.columns or _translation_schema
    for row in stream(corpus, None if corpus.columns else config, split, revision):
        yield columns(row, pair)


def _translation_schema(row: dict[str, Any], pair: Pair) -> tuple[str, str]:
    return row["translation"][pair.source.code], row["translation"][pair.target.code]


def text_rows(name: str, language: str, split: str, revision: str | None) -> Iterator[dict[str, Any]]:
    """Stream the rows of a named corpus of text or conversations, with the columns that it has on the Hub."""
    corpus = TEXT_CORPORA[name]
    check_split(name, corpus.splits, split)
    config = None if corpus.data_files else language
    yield from stream(corpus, config, split, revision)


def check_split(name: str, splits: tuple[str, ...], split: str) -> None:
    """Raise `InputError` unless the corpus has the split."""
    if split not in splits:
        raise InputError(f"corpus {name} has no split {split!r}: it has {', '.join(splits)}")
