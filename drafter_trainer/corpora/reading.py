"""Sentences and documents of a corpus by name.

Names are `sample`, `stories`, `wmt16`, `c4:de`, `file:PATH` …, see the tables in `catalog`. `NAME@REVISION` pins a
corpus on the Hub to a commit.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from drafter_trainer.atomic import hash_file
from drafter_trainer.corpora.catalog import (
    CORPORA,
    PARALLEL_CORPORA,
    SAMPLE,
    STORIES,
    TEXT_CORPORA,
    check_split,
    stream,
)
from drafter_trainer.corpora.conversations import Conversation, conversation_of_row
from drafter_trainer.corpora.files import BadRowError, files_of, read_rows
from drafter_trainer.corpora.inspection import inspect_text
from drafter_trainer.corpora.sample import LANGUAGES, hundredth, sample_rows, sample_sentences
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Language, Pair
from drafter_trainer.targets import resolve_commit

FILE = "file"
# Hundredths of a corpus that are used as a split if the corpus lacks this split
_SENTENCES = {"train": range(4, 100), "validation": range(0, 2), "test": range(2, 4)}
_DOCUMENTS = {"train": range(2, 100), "validation": range(0, 2)}
_FROM_VALIDATION = {"validation": range(0, 50), "test": range(50, 100)}


@dataclass(frozen=True)
class Sentence:
    """A sentence to translate; `reference` is its translation in the corpus."""

    source_id: str
    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Document:
    """A training document: plain text or a conversation."""

    source_id: str
    text: str | None = None
    conversation: Conversation | None = None


_Row = TypeVar("_Row", Sentence, Document)


@dataclass(frozen=True)
class CorpusName:
    """The parts of a corpus name: `kind[:argument][@revision]`."""

    kind: str
    argument: str | None
    revision: str | None

    @classmethod
    def parse(cls, name: str) -> "CorpusName":
        """Parse a name."""
        kind, _, argument = name.partition(":")
        if kind == FILE:
            return cls(kind, argument, None)
        kind, _, revision = kind.partition("@")
        if argument:
            argument, _, later = argument.partition("@")
            revision = later or revision  # c4@REVISION:de is pinned too
        known = (SAMPLE, STORIES, *CORPORA)
        if kind not in known:
            raise InputError(f"unknown corpus {name!r}: known corpora are {', '.join(known)} and file:PATH")
        return cls(kind, argument or None, revision or None)


def read_sentences(name: str, pair: Pair, split: str, drops: Counter[str] | None = None) -> Iterator[Sentence]:
    """Yield the source sentences of a corpus in its order.

    A missing split is taken from another split by a hash of each sentence, so that a repeated sentence is in one split
    only. From a corpus with only training text (a file, JParaCrawl), validation and test get 2 % each. If only test is
    missing (WMT19), it gets half of validation.

    Args:
        name (`str`): Name of a parallel corpus, `sample`, or `file:PATH` with one sentence per line, rows of `source`
            and `target`, or, for both directions, rows of `translation: {de: …, en: …}`.
        pair (`Pair`): The direction; prompts are made of the source side only.
        drops (`Counter[str]`, *optional*): Counts the unusable rows of a corpus on the Hub by reason. In a file, an
            unusable row raises an error.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == SAMPLE:
        for source_id, text, reference in sample_sentences(pair, split):
            yield Sentence(f"sample/{source_id}", text, reference)
        return
    config = None
    if known := PARALLEL_CORPORA.get(corpus.kind):
        directions = (str(pair), str(Pair(pair.target, pair.source)))
        config = next((each for each in directions if each in known.pairs), None)
        if config is None:
            raise InputError(f"corpus {name} has no pair {pair}: it has {', '.join(known.pairs)}")
    elif corpus.kind != FILE:
        raise InputError(
            f"corpus {name} has no sentences to translate: use {', '.join(PARALLEL_CORPORA)} or file:PATH"
        )
    yield from _read(corpus, config, split, _SENTENCES, functools.partial(_sentence_of_row, pair=pair), drops)


def read_documents(name: str, pair: Pair, split: str, drops: Counter[str] | None = None) -> Iterator[Document]:
    """Yield the documents or conversations of a corpus in its order.

    Args:
        name (`str`): `c4`, `c4:de`, `sharegpt`, `sample` (both sides of the pair), or `file:PATH` with one document
            per line, or rows of `text`, `messages` or `conversations`.
        pair (`Pair`): Languages that are read from the sample.
        drops (`Counter[str]`, *optional*): As for `read_sentences`.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == SAMPLE:
        for row in sample_rows(split):
            for language in dict.fromkeys((pair.source, pair.target)):
                if language.code in row:
                    yield Document(f"sample/{row['id']}/{language.code}", row[language.code])
        return
    if corpus.kind != FILE and corpus.kind not in TEXT_CORPORA:
        raise InputError(f"corpus {name} has no text to pretrain on: use {', '.join(TEXT_CORPORA)} or file:PATH")
    yield from _read(corpus, corpus.argument or "en", split, _DOCUMENTS, _document_unless_blank, drops)


def read_texts(name: str, language: Language, split: str, drops: Counter[str] | None = None) -> Iterator[Document]:
    """Yield the text of a corpus in one language, in its order.

    Args:
        name (`str`): `c4` or `sample` (the part in that language), or `file:PATH` as for `read_documents`; files are
            inspected first.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == FILE:
        inspect_text(Path(corpus.argument or ""), language)
    elif corpus.kind == SAMPLE and language.code not in LANGUAGES:
        raise InputError(f"the bundled sample has no {language.name}: use your own text, as file:PATH")
    elif corpus.kind == "c4" and corpus.argument is None:
        name = f"{name}:{language.code}"
    for document in read_documents(name, Pair(language, language), split, drops):
        if document.text is None:
            raise InputError(f"{document.source_id}: expected a text in {language.name}, got a conversation")
        yield document


def describe_corpus(name: str) -> dict[str, str]:
    """Describe a corpus: its repository, commit and license on the Hub, or the SHA-256 of a file or folder.

    The key "licence" is spelled as in stored steps, which are compared with this description.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == FILE:
        path = Path(corpus.argument or "")
        hashes = [hash_file(file) for file in files_of(path)]
        whole = hashes[0] if path.is_file() else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        return {"name": f"file:{path.name}", "sha256": whole}
    if corpus.kind in (SAMPLE, STORIES):
        return {"name": corpus.kind, "licence": "apache-2.0"}
    known = CORPORA[corpus.kind]
    revision = resolve_commit(known.repo, corpus.revision, "a dataset", "dataset")
    return {"name": name, "repo": known.repo, "revision": revision, "licence": known.license}


def document_of_row(location: str, row: dict[str, Any]) -> Document:
    """Make a document of a row of `text`, `messages` or `conversations`."""
    text = row.get("text")
    if isinstance(text, str) and text.strip():
        return Document(location, text=text)
    return Document(location, conversation=conversation_of_row(location, row))


def _document_unless_blank(location: str, row: dict[str, Any]) -> Document | None:
    # A blank line of a text file separates paragraphs; a table may have both texts and conversations.
    blank = isinstance(row.get("text"), str) and not row["text"].strip()
    return None if blank and not (row.get("messages") or row.get("conversations")) else document_of_row(location, row)


def _sentence_of_row(location: str, row: dict[str, Any], pair: Pair) -> Sentence:
    translation = row.get("translation")
    if isinstance(translation, dict):
        codes = ((language.code, *language.aliases) for language in (pair.source, pair.target))
        text, reference = (next((translation[code] for code in own if code in translation), None) for own in codes)
    else:
        # JParaCrawl names its columns in English.
        text = row.get("source", row.get("text", row.get(pair.source.name.lower())))
        reference = row.get("target", row.get(pair.target.name.lower()))
    if not isinstance(text, str) or not text.strip():
        raise BadRowError(
            location, "no sentence", f': expected "source", "text" or "translation" with a text in {pair.source.name}'
        )
    return Sentence(location, text.strip(), reference.strip() if isinstance(reference, str) else None)


def _read(
    corpus: CorpusName,
    config: str | None,
    split: str,
    shares: dict[str, range],
    make: Callable[[str, dict[str, Any]], _Row | None],
    drops: Counter[str] | None,
) -> Iterator[_Row]:
    """Yield the items of a file or a corpus on the Hub; a missing split is made of its `shares` of another split."""
    known = CORPORA.get(corpus.kind)
    name = ":".join(filter(None, (corpus.kind, corpus.argument)))
    if known is None:
        rows = read_rows(Path(corpus.argument or ""))
    else:
        source_split = split
        if known.splits == ("train",):
            source_split = "train"
        elif split != "train" and "test" in shares and "test" not in known.splits:
            source_split, shares = "validation", _FROM_VALIDATION
        else:
            shares = {split: range(100)}
        check_split(name, known.splits, source_split)
        numbered = enumerate(stream(known, config, source_split, corpus.revision), 1)
        rows = ((f"{name}/{source_split}/{number}", row) for number, row in numbered)
    check_split(name, tuple(shares), split)
    for location, row in rows:
        try:
            made = make(location, row)
        except BadRowError as error:
            if known is None:
                raise
            if drops is not None:
                drops[f"bad row: {error.reason}"] += 1
            continue
        if made is not None:
            text = made.text if made.text is not None else str(made.conversation.messages)
            if hundredth(text) in shares[split]:
                yield made
