"""Packing: nothing lost, every row of one length."""

import itertools
import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora import Document
from drafter_trainer.corpora.conversations import Conversation
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.distillation.store import TOP_K, Answer, RowStore
from drafter_trainer.errors import DamagedStoreError, InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target
from drafter_trainer.training.packing import (
    Packing,
    load_packed,
    pack,
    pack_corpora,
    read_token_ids,
    tokenise,
    write_packed,
)
from tests.conftest import make_tokenizer
from tests.distillation.conftest import REQUEST
from tests.processes import CONTEXT

PAIR = get_pair("de-en")
CLEAN = Decontaminator([])
MESSAGES = [{"role": "user", "content": "Wie spät ist es?"}, {"role": "assistant", "content": "Es ist acht Uhr."}]


@pytest.mark.parametrize("length", [2, 3, 7, 50])
@pytest.mark.parametrize("sizes", [[5, 1, 0, 9, 30], [2] * 20, [100], [1]])
def test_rows_are_the_documents_end_to_end(sizes: list[int], length: int) -> None:
    """Prevent tokens from being lost, repeated or reordered where a document ends in the middle of a row."""
    numbers = itertools.count()
    documents = [list(itertools.islice(numbers, size)) for size in sizes]
    rows = list(pack(documents, length))
    assert all(len(row) == length for row in rows)
    total = sum(sizes)
    assert list(itertools.chain.from_iterable(rows)) == list(range(total - total % length))


def test_text_ends_with_the_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent documents that run into each other, and conversations without roles or with two end tokens."""
    ids = tokenise(Document("1", text="Guten Morgen! "), ChatTokenizer(tokenizer))
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == "Guten Morgen! "
    own = make_tokenizer()
    own.backend_tokenizer.post_processor = TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", ids[-1])])
    assert tokenise(Document("1", text="Guten Morgen! "), ChatTokenizer(own)) == ids
    chat = tokenise(Document("1", conversation=Conversation(MESSAGES)), ChatTokenizer(tokenizer))
    assert tokenizer.decode(chat) == "<|user|>Wie spät ist es?<|end|><|assistant|>Es ist acht Uhr.<|end|>"
    own.eos_token = None
    with pytest.raises(InputError, match="tokenizer has no end token"):
        tokenise(Document("1", text="Guten Morgen! "), ChatTokenizer(own))


def read(
    corpus: str,
    tokenizer: PreTrainedTokenizerFast,
    split: str = "train",
    decontaminator: Decontaminator = CLEAN,
    limit: int | None = None,
) -> tuple[list[list[int]], Counter[str]]:
    """Read a corpus and what was dropped of it."""
    drops: Counter[str] = Counter()
    return list(read_token_ids(corpus, PAIR, split, ChatTokenizer(tokenizer), decontaminator, limit, drops)), drops


def test_documents_with_a_question_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Prevent evaluation questions from being pretrained on, also where they stand in a turn of a conversation."""
    question = "Zwölf kleine Katzen saßen gestern Abend auf dem alten Zaun vor unserem gelben Haus"
    asked = [{"role": "user", "content": f"Übersetze: {question}!"}, {"role": "assistant", "content": "Twelve cats."}]
    short = "Es ist acht Uhr."
    rows = [{"text": f"Seite {number}, und nichts weiter."} for number in range(20)]
    rows += [{"text": f"Man sagt: {question}."}, {"messages": asked}, {"messages": MESSAGES}]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    kept, drops = [], Counter()
    for split in ("train", "validation"):
        ids, dropped = read(f"file:{path}", tokenizer, split, Decontaminator([(question, True), (short, True)]))
        kept += ids
        drops += dropped
    assert drops == {"overlap": 2, "exact match": 1}
    assert sorted(tokenizer.decode(ids, skip_special_tokens=True) for ids in kept) == sorted(
        row["text"] for row in rows[:20]
    )


@pytest.fixture
def start_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[str, list[list[int]]]:
    """What a target wrote by itself, as distillation stores it, and its ids."""
    store = RowStore(tmp_path / "start_text" / "train")
    texts = ["Der Hund schläft.", "Die Katze wacht.", "Es regnet."]
    written = [[tokenizer.bos_token_id, *tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    for number, ids in enumerate(written):
        topk = np.zeros((len(ids) - 1, TOP_K))
        request = replace(REQUEST, prompt_ids=(tokenizer.bos_token_id,), seed=number)
        store.write([(request, Answer(ids[1:], topk, topk, "stop"))], "transformers")
    return f"rows:{tmp_path / 'start_text'}", written


def test_what_a_target_wrote_is_taken_id_for_id(start_text, tokenizer) -> None:
    """Prevent ids that are decoded and tokenized again, a second end token, and a missing split read as empty."""
    corpus, written = start_text
    assert read(corpus, tokenizer) == (written, Counter())
    assert read(corpus, tokenizer, limit=2) == (written[:2], Counter())
    decontaminator = Decontaminator([("Die Katze wacht", True)])
    assert read(corpus, tokenizer, decontaminator=decontaminator) == (
        [written[0], written[2]],
        Counter({"exact match": 1}),
    )
    with pytest.raises(InputError, match=r"start_text/validation: distill first"):
        read(corpus, tokenizer, "validation")


def test_packed_rows_come_back_with_what_was_dropped(tmp_path: Path) -> None:
    """Prevent drops counted in one session from being lost where a resumed one finds the file finished."""
    drops: Counter[str] = Counter()

    def rows() -> Iterator[list[int]]:
        for start in range(2500):
            drops["overlap"] += start % 2
            yield list(range(start, start + 4))

    path = tmp_path / "packed" / "train.parquet"
    write_packed(rows(), path, drops)
    packed = load_packed([path])
    assert packed.rows["input_ids"] == [list(range(start, start + 4)) for start in range(2500)]
    assert packed.facts == {"rows": 2500, "tokens": 10000, "dropped": {"overlap": 1250}}


def packing_of(target: Target, path: Path, limit: int | None = None) -> Packing:
    """Pack a file of documents in rows of eight tokens."""
    return Packing((f"file:{path}",), PAIR, "train", target, (), limit, 8)


def documents_of(shards: Sequence[Path], tokenizer: PreTrainedTokenizerFast) -> set[str]:
    """Return the numbers of the documents that begin in packed rows."""
    texts = [
        tokenizer.decode(list(itertools.chain.from_iterable(load_packed([shard]).rows["input_ids"])))
        for shard in shards
    ]
    return {number for text in texts for number in re.findall(r"number (\d+) of", text)}


@pytest.mark.parametrize("limit", [None, 50])
def test_workers_pack_every_document_once(tmp_path, target, tokenizer, limit, monkeypatch) -> None:
    """Prevent documents packed twice or never, a limit for each worker, and a resume that reads all again."""
    # Workers that need not import everything.
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: CONTEXT)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"This is the text number {n} of the file." for n in range(120)), encoding="utf-8")
    packing = packing_of(target, path, limit)
    one = pack_corpora(packing, tmp_path / "one", 1)
    three = pack_corpora(packing, tmp_path / "three", 3)
    assert [shard.name for shard in three] == [f"train-{worker:05d}-of-00003.parquet" for worker in range(3)]
    shares = [documents_of([shard], tokenizer) for shard in three]
    assert sum(map(len, shares)) == len(set.union(*shares))
    # The end of a worker's text that fills no row is left out.
    assert set.union(*shares) <= documents_of(one, tokenizer)
    assert len(documents_of(one, tokenizer) - set.union(*shares)) <= 3
    before, kept = [shard.read_bytes() for shard in three], three[1].stat().st_mtime_ns
    three[0].unlink()
    assert pack_corpora(packing, tmp_path / "three", 3) == three
    assert [shard.read_bytes() for shard in three] == before
    assert three[1].stat().st_mtime_ns == kept


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_named_with_what_to_do(tmp_path: Path, kept: float) -> None:
    """Prevent a damaged file from ending the run in a traceback, and training on nothing for want of text."""
    path = tmp_path / "train.parquet"
    write_packed(pack([[1, 2, 3]], 8), path, Counter())
    with pytest.raises(InputError, match=r"has no rows \(left out: nothing\): the text is shorter than max_length"):
        load_packed([path])
    path.unlink()
    write_packed([[1, 2, 3]] * 10, path, Counter())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DamagedStoreError, match=r"train\.parquet is damaged .*delete it and pretrain again"):
        load_packed([path])
