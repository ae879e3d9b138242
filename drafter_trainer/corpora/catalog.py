"""The table of corpora on the Hugging Face Hub. To add a corpus, add an entry."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
from huggingface_hub.errors import HTTPError  # base class of the errors of its HTTP library

from drafter_trainer.errors import InputError, one_line

SAMPLE = "sample"  # the bundled corpus
STORIES = "stories"  # the subjects of stories in the bundled corpus


@dataclass(frozen=True)
class HubCorpus:
    """A corpus on the Hub.

    Args:
        pairs (`tuple[str, ...]`): Pairs of a parallel corpus, with English last; empty for a text corpus.
        data_files (`str`, *optional*): The file to read, if the repository has several versions.
        configs (`bool`, *optional*, defaults to `True`): Whether each pair or language is a configuration.
        options (`dict`): Further arguments of `datasets.load_dataset`.
    """

    repo: str
    license: str
    splits: tuple[str, ...]
    pairs: tuple[str, ...] = ()
    data_files: str | None = None
    configs: bool = True
    options: dict[str, Any] = field(default_factory=dict)


PARALLEL_CORPORA = {
    "wmt14": HubCorpus("wmt/wmt14", "unknown", ("train", "validation", "test"), ("fr-en",)),
    "wmt16": HubCorpus("wmt/wmt16", "unknown", ("train", "validation", "test"), ("de-en", "ru-en")),
    "wmt19": HubCorpus("wmt/wmt19", "unknown", ("train", "validation"), ("zh-en",)),
    "jparacrawl": HubCorpus(
        "Verah/JParaCrawl-Filtered-English-Japanese-Parallel-Corpus",
        "NTT, research use only",
        ("train",),
        ("ja-en",),
        configs=False,
        # By default, a sentence such as "None" or "N/A" is read as a missing value.
        options={"keep_default_na": False},
    ),
}

TEXT_CORPORA = {
    # The language follows a colon: c4:de. Without it, c4 is English.
    "c4": HubCorpus("allenai/c4", "odc-by", ("train", "validation")),
    # The repository has two overlapping collections; the paper used this one. The whole JSON array is loaded before
    # its first row (464 MB, about 3 GB of memory). To avoid this, convert it to JSON Lines and read it as `file:PATH`.
    "sharegpt": HubCorpus(
        "Aeala/ShareGPT_Vicuna_unfiltered",
        "apache-2.0",
        ("train",),
        configs=False,
        data_files="ShareGPT_V4.3_unfiltered_cleaned_split.json",
    ),
}

CORPORA = PARALLEL_CORPORA | TEXT_CORPORA


def stream(corpus: HubCorpus, config: str | None, split: str, revision: str | None = None) -> Iterator[dict[str, Any]]:
    """Stream the rows of a split without downloading the whole corpus first."""
    config = config if corpus.configs else None
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
        # Only the iteration opens files, so a damaged file or an unreachable Hub raises its error here.
        yield from dataset
    except (ValueError, OSError, EOFError, zlib.error, HTTPError, datasets.exceptions.DatasetsError) as error:
        reason = one_line(error)
        raise InputError(f"{corpus.repo} ({config or 'default'}, {split}) cannot be read: {reason}") from error


def check_split(name: str, splits: tuple[str, ...], split: str) -> None:
    """Raise `InputError` unless the corpus has the split."""
    if split not in splits:
        raise InputError(f"corpus {name} has no split {split!r}: it has {', '.join(splits)}")
