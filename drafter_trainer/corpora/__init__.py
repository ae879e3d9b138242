"""From a corpus' name to its sentences and documents.

A corpus is named `sample`, `wmt16`, `c4:de`, `file:PATH` …; `NAME@REVISION` pins a Hub corpus to a commit. See
`hub.PARALLEL_CORPORA` and `hub.TEXT_CORPORA` for what is known by name. `stories` are the subjects of the sample's.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from drafter_trainer.corpora.conversations import Conversation, conversation_of_row
from drafter_trainer.corpora.files import BadRowError, files_of, read_rows
from drafter_trainer.corpora.hub import (
    PARALLEL_CORPORA,
    TEXT_CORPORA,
    parallel_rows,
    text_rows,
)
from drafter_trainer.corpora.inspection import inspect_text
from drafter_trainer.corpora.sample import LANGUAGES, sample_rows, sample_sentences
from drafter_trainer.drafters.description import hash_file
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Language, Pair
from drafter_trainer.targets import resolve_commit

STORIES = "stories"  # the corpus whose prompts ask for stories

# Which hundredths of a corpus become a split that it lacks
_SENTENCES = {"train": range(4, 100), "validation": range(0, 2), "test": range(2, 4)}
_DOCUMENTS = {"train": range(2, 100), "validation": range(0, 2)}
_FROM_VALIDATION = {"validation": range(0, 50), "test": range(50, 100)}


@dataclass(frozen=True)
class Sentence:
    """A sentence to ask the target about; `reference` is its translation where the corpus has one."""

    source_id: str
    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Document:
    """A text to pretrain a drafter on: plain text, or a conversation."""

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
        """Take a name apart."""
        kind, _, argument = name.partition(":")
        if kind == "file":
            return cls(kind, argument, None)
        kind, _, revision = kind.partition("@")
        if argument:
            argument, _, later = argument.partition("@")
            revision = later or revision  # c4@REVISION:de is pinned too
        known = ("sample", STORIES, *PARALLEL_CORPORA, *TEXT_CORPORA)
        if kind not in known:
            raise InputError(f"unknown corpus {name!r}: the known ones are {', '.join(known)} and file:PATH")
        return cls(kind, argument or None, revision or None)


def read_sentences(name: str, pair: Pair, split: str, drops: Counter[str] | None = None) -> Iterator[Sentence]:
    """Read the source sentences of a corpus, in its own order.

    Splits that a corpus lacks are cut from what it has by a hash of each sentence, so that a repeated one never
    stands on two sides: where it has training text alone (a file, JParaCrawl), 2 % of it each are for validation and
    test; where only the test is missing (WMT19), validation is halved.

    Args:
        name (`str`): Name of a parallel corpus, `sample`, or `file:PATH` with a sentence a line, rows of `source`
            and `target`, or rows of `translation: {de: …, en: …}`, which serve in both directions.
        pair (`Pair`): The direction; only its source side becomes prompts.
        drops (`Counter[str]`, *optional*): Gains the rows of a Hub corpus that cannot be used, by reason; they are
            left out. In a file, the first ends the run.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == "sample":
        for source_id, text, reference in sample_sentences(pair, split):
            yield Sentence(f"sample/{source_id}", text, reference)
    elif corpus.kind == "file":
        rows = read_rows(Path(corpus.argument or ""))
        sentences = (_sentence_of_row(place, row, pair) for place, row in rows)
        yield from _own_split(sentences, split, _SENTENCES, name)
    elif corpus.kind in PARALLEL_CORPORA:
        splits = PARALLEL_CORPORA[corpus.kind].splits
        source_split, shares = split, None
        if splits == ("train",):
            source_split, shares = "train", _SENTENCES
        elif "test" not in splits and split != "train":
            source_split, shares = "validation", _FROM_VALIDATION
        rows = (
            (f"{corpus.kind}/{source_split}/{number}", {"source": source, "target": target})
            for number, (source, target) in enumerate(
                parallel_rows(corpus.kind, pair, source_split, corpus.revision), start=1
            )
            if not _is_blank(source)
        )
        sentences = _usable(rows, functools.partial(_sentence_of_row, pair=pair), drops)
        yield from sentences if shares is None else _own_split(sentences, split, shares, name)
    else:
        raise InputError(f"corpus {name} holds no sentences to translate: {', '.join(PARALLEL_CORPORA)} do")


def read_documents(name: str, pair: Pair, split: str, drops: Counter[str] | None = None) -> Iterator[Document]:
    """Read the documents or conversations of a corpus, in its own order.

    Args:
        name (`str`): `c4`, `c4:de`, `sharegpt`, `sample` (both sides of the pair), or `file:PATH` with a document
            a line, or rows of `text`, `messages` or `conversations`.
        pair (`Pair`): Decides which languages of the sample are read.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == "sample":
        for row in sample_rows(split):
            for language in dict.fromkeys((pair.source, pair.target)):
                if language.code in row:
                    yield Document(f"sample/{row['id']}/{language.code}", row[language.code])
    elif corpus.kind == "file":
        documents = (
            document_of_row(place, row)
            for place, row in read_rows(Path(corpus.argument or ""))
            # A blank line of a text file only parts paragraphs; a table may have text and conversations.
            if not _is_blank(row.get("text")) or row.get("messages") or row.get("conversations")
        )
        yield from _own_split(documents, split, _DOCUMENTS, name)
    elif corpus.kind in TEXT_CORPORA:
        held_out = TEXT_CORPORA[corpus.kind].splits == ("train",)
        source_split = "train" if held_out else split
        label = f"{corpus.kind}:{corpus.argument}" if corpus.argument else corpus.kind
        rows = (
            (f"{label}/{source_split}/{number}", row)
            for number, row in enumerate(
                text_rows(corpus.kind, corpus.argument or "en", source_split, corpus.revision), start=1
            )
        )
        documents = _usable(rows, document_of_row, drops)
        yield from _own_split(documents, split, _DOCUMENTS, name) if held_out else documents
    else:
        raise InputError(f"corpus {name} is no text to pretrain on: {', '.join(TEXT_CORPORA)} and file:PATH are")


def read_texts(name: str, language: Language, split: str, drops: Counter[str] | None = None) -> Iterator[Document]:
    """Read the text of a corpus in one language, in its own order.

    Args:
        name (`str`): `c4` (that language's part), `sample` (that language's side), or `file:PATH` as for
            `read_documents`, which is inspected first.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == "file":
        inspect_text(Path(corpus.argument or ""), language)
    elif corpus.kind == "sample" and language.code not in LANGUAGES:
        raise InputError(f"the bundled sample has no {language.name}: name a text of your own, such as file:PATH")
    elif corpus.kind == "c4" and corpus.argument is None:
        name = f"{name}:{language.code}"
    for document in read_documents(name, Pair(language, language), split, drops):
        if document.text is None:
            raise InputError(f"{document.source_id}: a conversation: rows of text in {language.name} are expected")
        yield document


def _usable(
    rows: Iterable[tuple[str, Any]], make: Callable[[str, Any], _Row], drops: Counter[str] | None
) -> Iterator[_Row]:
    """Make something of the rows of a Hub corpus, which nobody here can mend, and count those that are left out."""
    for place, row in rows:
        try:
            made = make(place, row)
        except BadRowError as error:
            if drops is not None:
                drops[f"bad row: {error.reason}"] += 1
        else:
            yield made


def describe_corpus(name: str) -> dict[str, str]:
    """Describe a corpus: its repository, commit and license on the Hub, or the SHA-256 of a file or folder.

    The key "licence" is spelled as in stored steps, which compare this description with theirs.
    """
    corpus = CorpusName.parse(name)
    if corpus.kind == "file":
        path = Path(corpus.argument or "")
        hashes = [hash_file(file) for file in files_of(path)]
        whole = hashes[0] if path.is_file() else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        return {"name": f"file:{path.name}", "sha256": whole}
    if corpus.kind in ("sample", STORIES):
        return {"name": corpus.kind, "licence": "apache-2.0"}
    known = (PARALLEL_CORPORA | TEXT_CORPORA)[corpus.kind]
    revision = resolve_commit(known.repo, corpus.revision, "a data set", "dataset")
    return {"name": name, "repo": known.repo, "revision": revision, "licence": known.license}


def _own_split(rows: Iterator[_Row], split: str, shares: dict[str, range], name: str) -> Iterator[_Row]:
    if split not in shares:
        raise InputError(f"corpus {name} has no split {split!r}: it has {', '.join(shares)}")
    for row in rows:
        text = row.text if row.text is not None else str(row.conversation.messages)
        if int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % 100 in shares[split]:
            yield row


def _sentence_of_row(place: str, row: dict[str, Any], pair: Pair) -> Sentence:
    translation = row.get("translation")
    if isinstance(translation, dict):
        text, reference = _side(translation, pair.source), _side(translation, pair.target)
    else:
        text, reference = row.get("source", row.get("text")), row.get("target")
    if not isinstance(text, str) or not text.strip():
        raise BadRowError(
            place, "no sentence", f': expected "source", "text" or "translation" with a text in {pair.source.name}'
        )
    return Sentence(place, text.strip(), reference.strip() if isinstance(reference, str) else None)


def _side(translation: dict[str, Any], language: Language) -> Any:
    codes = (language.code, *language.aliases)
    return next((translation[code] for code in codes if code in translation), None)


def _is_blank(text: Any) -> bool:
    return isinstance(text, str) and not text.strip()


def document_of_row(place: str, row: dict[str, Any]) -> Document:
    text = row.get("text")
    if isinstance(text, str) and text.strip():
        return Document(place, text=text)
    return Document(place, conversation=conversation_of_row(place, row))
