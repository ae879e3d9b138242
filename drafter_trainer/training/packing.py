"""Pack text into rows of equal length, once, for pretraining."""

import contextlib
import itertools
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm.auto import tqdm

from drafter_trainer.atomic import write_whole
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora import Document, document_of_row, read_documents
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.files import STRICT, BadRows
from drafter_trainer.corpora.questions import keep_out
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import DamagedStoreError, InputError, RefusedConversationError
from drafter_trainer.languages import Pair
from drafter_trainer.targets import Target

PACKED = pa.schema([("input_ids", pa.list_(pa.int32()))])
_ROWS_AT_ONCE = 1024


def rows_folder(corpus: str) -> Path | None:
    """Return the folder of a corpus `rows:FOLDER`, what a target wrote; `None` for every other corpus."""
    return Path(corpus.removeprefix("rows:")) if corpus.startswith("rows:") else None


def tokenise(document: Document, chat: ChatTokenizer, unshown: Counter[str] | None = None) -> list[int]:
    """Turn a document into ids: text as it is with one end token behind, conversations through the chat template.

    Args:
        unshown (`Counter[str]`, *optional*): Gains what the template leaves out of conversations.
    """
    if (spoken := document.conversation) is not None:
        return chat.encode(spoken.messages, spoken.tools, unshown=unshown)
    end = chat.tokenizer.eos_token_id
    if end is None:
        raise InputError(
            "the target's tokenizer has no end token, with which each text has to end: name one of its tokens as "
            "eos_token in its tokenizer_config.json"
        )
    ids = chat.encode_text(document.text, add_special_tokens=True)
    return [*ids] if ids[-1:] == [end] else [*ids, end]  # some put it there themselves


def read_token_ids(
    corpus: str,
    pair: Pair,
    split: str,
    chat: ChatTokenizer,
    decontaminator: Decontaminator,
    limit: int | None,
    drops: Counter[str],
    share: tuple[int, int] = (0, 1),
    bad_rows: BadRows = STRICT,
) -> Iterator[list[int]]:
    """Read a corpus as token ids, without the documents that hold an evaluation question or cannot be rendered.

    Args:
        corpus (`str`): A corpus of documents, or `rows:FOLDER` for what a target wrote (see `distillation`), whose
            ids are taken as they are.
        limit (`int`, *optional*): Stop after so many documents.
        drops (`Counter[str]`): Gains what was left out, by reason.
        share (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Which of several workers reads, and their number;
            each takes every so-manieth document.
        bad_rows (`BadRows`, *optional*): What becomes of malformed rows; the first ends the run.
    """
    worker, workers = share
    if rows_folder(corpus) is not None:
        for ids in itertools.islice(_read_rows(corpus, split), worker, limit, workers):
            if (reason := decontaminator.reason(chat.tokenizer.decode(ids, skip_special_tokens=True))) is None:
                yield ids
            else:
                drops[reason] += 1
        return
    for document in itertools.islice(read_documents(corpus, pair, split, bad_rows), worker, limit, workers):
        text = document.text if document.conversation is None else document.conversation.text()
        if (reason := decontaminator.reason(text)) is not None:
            drops[reason] += 1
            continue
        try:
            ids = tokenise(document, chat, drops)
        except RefusedConversationError as error:
            drops[error.reason] += 1
        else:
            yield ids


def _read_rows(corpus: str, split: str) -> Iterator[list[int]]:
    folder = rows_folder(corpus) / split
    if not folder.is_dir():
        raise InputError(f"{corpus}: no folder {folder}: distill first")
    for table in RowStore(folder).tables(["prompt_ids", "response_ids"]):
        for row in table.to_pylist():
            yield row["prompt_ids"] + row["response_ids"]


def pack(documents: Iterable[list[int]], length: int) -> Iterator[list[int]]:
    """Join documents end to end and cut the whole into rows of `length` tokens; a last short one is left out."""
    rest: list[int] = []
    for ids in documents:
        rest.extend(ids)
        start = 0
        while len(rest) - start >= length:
            yield rest[start : start + length]
            start += length
        del rest[:start]


def pack_texts(rows: Any, target: Target | None, length: int) -> Any:
    """Tokenize and pack a dataset of `text`, `messages` or `conversations`; rows of `input_ids` are packed already.

    Args:
        target (`Target`, *optional*): Its tokenizer makes the ids.
        length (`int`): Tokens of a packed row.
    """
    if not isinstance(rows, Dataset) or "input_ids" in rows.column_names:
        return rows
    if not {"text", "messages", "conversations"} & set(rows.column_names):
        raise InputError(
            f"a dataset to pretrain on needs a column text, messages or input_ids, and has {rows.column_names}"
        )
    if target is None:
        raise InputError("it is not known whose tokenizer packs the text: make the drafter with create_drafter")
    chat = target.load_chat()

    def read(batch: dict[str, list]) -> Iterator[list[int]]:
        for number, values in enumerate(zip(*batch.values())):
            row = {name: value for name, value in zip(batch, values) if value is not None}
            with contextlib.suppress(RefusedConversationError):
                yield tokenise(document_of_row(f"row {number}", row), chat)

    packed = rows.map(
        lambda batch: {"input_ids": list(pack(read(batch), length))},
        batched=True,
        remove_columns=rows.column_names,
        desc="packing",
    )
    if not len(packed):
        raise InputError(f"the dataset has less text than a row of {length} tokens: give more, or a lower max_length")
    return packed


def write_packed(rows: Iterable[list[int]], path: Path, drops: Counter[str]) -> None:
    """Write packed rows as one Parquet file that appears whole or not at all.

    Args:
        drops (`Counter[str]`): What was left out by the time all rows are read; kept in the file's metadata.
    """

    def write(partial: Path) -> None:
        iterator = iter(tqdm(rows, unit="row", desc=f"packing {path.stem}"))
        with pq.ParquetWriter(partial, PACKED) as writer:
            while chunk := list(itertools.islice(iterator, _ROWS_AT_ONCE)):
                writer.write_table(pa.Table.from_pydict({"input_ids": chunk}, PACKED))
            writer.add_key_value_metadata({"dropped": json.dumps(drops)})

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


@dataclass(frozen=True)
class Packing:
    """The settings of packing.

    Args:
        corpora (`tuple[str, ...]`): Corpora, one after the other.
        pair (`Pair`): Decides which languages of the sample are read.
        target (`Target`): Its tokenizer makes the ids.
        questions (`tuple[str, ...]`): Question sets to keep out.
        limit (`int`, *optional*): Documents of each corpus, at most.
        skip_bad_rows (`bool`, *optional*, defaults to `False`): Leave malformed rows out, and count them.
    """

    corpora: tuple[str, ...]
    pair: Pair
    split: str
    target: Target
    questions: tuple[str, ...]
    limit: int | None
    length: int
    skip_bad_rows: bool = False

    def write_shard(self, path: Path, share: tuple[int, int]) -> None:
        """Read a worker's share of the documents and write its rows."""
        chat, decontaminator = self.target.load_chat(), keep_out(self.questions, self.pair)
        drops: Counter[str] = Counter()
        # Every worker meets every malformed row: the first one counts them.
        bad_rows = BadRows(self.skip_bad_rows, drops if share[0] == 0 else Counter())
        documents = itertools.chain.from_iterable(
            read_token_ids(name, self.pair, self.split, chat, decontaminator, self.limit, drops, share, bad_rows)
            for name in self.corpora
        )
        write_packed(pack(documents, self.length), path, drops)


def pack_corpora(packing: Packing, folder: Path, workers: int) -> list[Path]:
    """Pack corpora into a shard a worker, each in a process of its own; shards that are there are not made again."""
    shards = [folder / f"{packing.split}-{worker:05d}-of-{workers:05d}.parquet" for worker in range(workers)]
    missing = [worker for worker, shard in enumerate(shards) if not shard.is_file()]
    if workers == 1:
        for worker in missing:
            packing.write_shard(shards[worker], (worker, workers))
    elif missing:
        with ProcessPoolExecutor(len(missing), mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(packing.write_shard, shards[worker], (worker, workers)) for worker in missing]
            for job in jobs:
                job.result()
    return shards


@dataclass(frozen=True)
class PackedRows:
    """Packed rows with their counts."""

    rows: Dataset
    facts: dict[str, Any]


def load_packed(shards: Sequence[Path]) -> PackedRows:
    """Load what `write_packed` wrote."""
    dropped: Counter[str] = Counter()
    count = 0
    for shard in shards:
        try:
            metadata = pq.read_metadata(shard)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedStoreError(f"{shard} is damaged ({error}): delete it and pretrain again") from error
        dropped.update(json.loads(metadata.metadata[b"dropped"]))
        count += metadata.num_rows
    if count == 0:
        raise InputError(
            f"{shards[0].parent} has no rows (left out: {dict(dropped) or 'nothing'}): the text is shorter than "
            "max_length, give more text or a smaller one"
        )
    rows = Dataset.from_parquet([str(shard) for shard in shards])
    length = len(rows[0]["input_ids"])
    return PackedRows(rows, {"rows": count, "tokens": count * length, "dropped": dict(dropped)})
