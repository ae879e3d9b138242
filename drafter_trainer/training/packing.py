"""Pack text into rows of equal length for pretraining."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.questions import load_decontaminator
from drafter_trainer.corpora.reading import Document, document_of_row, read_documents
from drafter_trainer.errors import InputError, RefusedConversationError
from drafter_trainer.languages import Pair
from drafter_trainer.targets import Target

_DOCUMENTS = Features({"input_ids": List(Value("int32")), "dropped": Value("string")})


def encode_document(document: Document, chat: ChatTokenizer, unshown: Counter[str] | None = None) -> list[int]:
    """Tokenize a document: text with one end token, conversations with the chat template.

    `unshown` counts the parts of conversations that the template leaves out.
    """
    if (spoken := document.conversation) is not None:
        return chat.encode(spoken.messages, spoken.tools, unshown=unshown)
    end = chat.tokenizer.eos_token_id
    if end is None:
        raise InputError(
            "the target's tokenizer has no end token, which each text needs: name one of its tokens as eos_token in "
            "its tokenizer_config.json"
        )
    ids = chat.encode_text(document.text, add_special_tokens=True)
    return [*ids] if ids[-1:] == [end] else [*ids, end]  # some tokenizers add the end token


def read_token_ids(
    corpus: str,
    pair: Pair,
    split: str,
    chat: ChatTokenizer,
    decontaminator: Decontaminator,
    limit: int | None,
    drops: Counter[str],
    share: tuple[int, int] = (0, 1),
) -> Iterator[list[int]]:
    """Read a corpus as token ids, without documents that contain an evaluation question or cannot be rendered.

    Args:
        limit (`int`, *optional*): Maximum number of documents.
        drops (`Counter[str]`): Receives the number of dropped documents, by reason.
        share (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Index of a worker and number of workers. Documents
            are assigned to the workers round-robin; the first worker counts unreadable rows.
    """
    worker, workers = share
    documents = read_documents(corpus, pair, split, drops if worker == 0 else None)
    for document in itertools.islice(documents, worker, limit, workers):
        text = document.text if document.conversation is None else document.conversation.text()
        if (reason := decontaminator.reason(text)) is not None:
            drops[reason] += 1
            continue
        try:
            yield encode_document(document, chat, drops)
        except RefusedConversationError as error:
            drops[error.reason] += 1


def pack(documents: Iterable[list[int]], length: int) -> Iterator[list[int]]:
    """Join documents and cut them into rows of `length` tokens; a short rest is left out."""
    rest: list[int] = []
    for ids in documents:
        rest.extend(ids)
        start = 0
        while len(rest) - start >= length:
            yield rest[start : start + length]
            start += length
        del rest[:start]


def pack_texts(rows: Any, target: Target | None, length: int) -> Any:
    """Tokenize and pack a dataset of `text`, `messages` or `conversations` into rows of `length` tokens.

    Rows of `input_ids` are packed already and are returned unchanged.
    """
    if not isinstance(rows, Dataset) or "input_ids" in rows.column_names:
        return rows
    if not {"text", "messages", "conversations"} & set(rows.column_names):
        raise InputError(
            f"a dataset to pretrain on needs a column text, messages or input_ids, and has {rows.column_names}"
        )
    if target is None:
        raise InputError(
            "the drafter's target, whose tokenizer is needed, is not known: make the drafter with create_drafter"
        )
    chat = target.load_chat()

    def read(batch: dict[str, list]) -> Iterator[list[int]]:
        for number, values in enumerate(zip(*batch.values())):
            row = {name: value for name, value in zip(batch, values) if value is not None}
            with contextlib.suppress(RefusedConversationError):
                yield encode_document(document_of_row(f"row {number}", row), chat)

    packed = _pack_rows(rows, read, length)
    if not len(packed):
        raise InputError(f"the dataset has less text than a row of {length} tokens: give more, or a lower max_length")
    return packed


def pack_corpora(
    corpora: Sequence[str], target: Target, folder: Path, length: int, workers: int = 1, **reading: Any
) -> tuple[Dataset, dict[str, Any]]:
    """Tokenize and pack corpora, one after the other; rows that the folder has already are not packed again.

    Args:
        folder (`Path`): Folder of documents and packed rows.
        length (`int`): Number of tokens of a row.
        workers (`int`, *optional*, defaults to `1`): Number of processes that read.
        reading: `pair`, `split` and `limit` as for `read_token_ids`, and `questions`, the question sets to leave out.
    Returns:
        `tuple` of the rows of `input_ids`, and of the numbers of rows, tokens, and dropped documents by reason.
    Raises:
        InputError: If a corpus cannot be read, or has less text than a row.
    """
    # `datasets` divides `shares`, the only list in these arguments, among the processes.
    given = reading | {"corpora": tuple(corpora), "target": target, "shares": [(n, workers) for n in range(workers)]}
    try:
        documents = Dataset.from_generator(
            _read_documents,
            features=_DOCUMENTS,
            cache_dir=str(folder),
            gen_kwargs=given,
            num_proc=workers if workers > 1 else None,
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None
    packed = _pack_rows(documents, lambda batch: batch["input_ids"], length)
    dropped = dict(Counter(reason for reason in documents["dropped"] if reason))
    if not len(packed):
        raise InputError(
            f"{', '.join(corpora)}: no row of {length} tokens (left out: {dropped or 'nothing'}): give more text, or "
            "a lower max_length"
        )
    return packed, {"rows": len(packed), "tokens": len(packed) * length, "dropped": dropped}


def _pack_rows(rows: Dataset, read: Callable[[dict[str, list]], Iterable[list[int]]], length: int) -> Dataset:
    """Pack the documents that `read` makes of each batch of rows; a short rest of a batch is left out."""
    return rows.map(
        lambda batch: {"input_ids": list(pack(read(batch), length))},
        batched=True,
        remove_columns=rows.column_names,
        desc="packing",
    )


def _read_documents(
    corpora: tuple[str, ...],
    target: Target,
    pair: Pair,
    split: str,
    shares: list[tuple[int, int]],
    questions: Sequence[str] = (),
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the token ids of documents, and a row without ids for each drop."""
    chat, decontaminator = target.load_chat(), load_decontaminator(questions, pair)
    for share, corpus in itertools.product(shares, corpora):
        drops: Counter[str] = Counter()
        for ids in read_token_ids(corpus, pair, split, chat, decontaminator, limit, drops, share):
            yield {"input_ids": ids, "dropped": ""}
        for reason in drops.elements():
            yield {"input_ids": [], "dropped": reason}
