"""Packing: nothing lost, every row of one length."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.conversations import Conversation
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.reading import Document
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target
from drafter_trainer.training.packing import encode_document, pack, pack_corpora, read_token_ids
from tests.conftest import make_tokenizer

PAIR = get_pair("de-en")
MESSAGES = [{"role": "user", "content": "Wie spät ist es?"}, {"role": "assistant", "content": "Es ist acht Uhr."}]


@pytest.mark.parametrize("sizes", [[5, 1, 0, 9, 30], [2] * 20, [100], [1]])
def test_rows_are_the_documents_end_to_end(sizes: list[int]) -> None:
    """Prevent tokens from being lost, repeated or reordered where a document ends in the middle of a row."""
    numbers = itertools.count()
    documents = [list(itertools.islice(numbers, size)) for size in sizes]
    for length in (2, 3, 7, 50):
        whole = sum(sizes) // length
        assert list(pack(documents, length)) == [[*range(n * length, (n + 1) * length)] for n in range(whole)]


def test_text_ends_with_the_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent documents that run into each other, and conversations without roles or with two end tokens."""
    ids = encode_document(Document("1", text="Guten Morgen! "), ChatTokenizer(tokenizer))
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == "Guten Morgen! "
    own = make_tokenizer()
    own.backend_tokenizer.post_processor = TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", ids[-1])])
    assert encode_document(Document("1", text="Guten Morgen! "), ChatTokenizer(own)) == ids
    chat = encode_document(Document("1", conversation=Conversation(MESSAGES)), ChatTokenizer(tokenizer))
    assert tokenizer.decode(chat) == "<|user|>Wie spät ist es?<|end|><|assistant|>Es ist acht Uhr.<|end|>"
    own.eos_token = None
    with pytest.raises(InputError, match="tokenizer has no end token"):
        encode_document(Document("1", text="Guten Morgen! "), ChatTokenizer(own))


def test_documents_with_a_question_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Prevent evaluation questions from being pretrained on, also in a turn of a conversation."""
    question = "Zwölf kleine Katzen saßen gestern Abend auf dem alten Zaun vor unserem gelben Haus"
    asked = [{"role": "user", "content": f"Übersetze: {question}!"}, {"role": "assistant", "content": "Twelve cats."}]
    short = "Es ist acht Uhr."
    rows = [{"text": f"Seite {number}, und nichts weiter."} for number in range(20)]
    rows += [{"text": f"Man sagt: {question}."}, {"messages": asked}, {"messages": MESSAGES}]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    kept, drops, decontaminator = [], Counter(), Decontaminator([(question, True), (short, True)])
    for split in ("train", "validation"):
        kept += read_token_ids(f"file:{path}", PAIR, split, ChatTokenizer(tokenizer), decontaminator, None, drops)
    assert drops == {"overlap": 2, "exact match": 1}
    assert sorted(tokenizer.decode(ids, skip_special_tokens=True) for ids in kept) == sorted(
        row["text"] for row in rows[:20]
    )


@pytest.mark.parametrize("limit", [None, 50])
def test_workers_pack_every_document_once(tmp_path: Path, target: Target, tokenizer, limit: int | None) -> None:
    """Prevent documents packed twice or never, a limit for each worker, and a resume that reads all again."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"This is the text number {n} of the file." for n in range(120)), encoding="utf-8")
    found = []
    for workers in (1, 3):
        given = {"folder": tmp_path / str(workers), "workers": workers, "pair": PAIR, "split": "train", "limit": limit}
        rows, facts = pack_corpora([f"file:{path}"], target, length=8, **given)
        assert facts == {"rows": len(rows), "tokens": 8 * len(rows), "dropped": {}}
        text = tokenizer.decode(list(itertools.chain.from_iterable(rows["input_ids"])))
        found.append(sorted(map(int, re.findall(r"number (\d+) of", text))))
        again, _ = pack_corpora([f"file:{path}"], target, length=8, **given)
        assert again.cache_files == rows.cache_files
    # The end of the text fills no row.
    assert found[0][:-1] == found[1][:-1]
    assert len(set(found[1])) == len(found[1])
    with pytest.raises(InputError, match=r"no row of 99999 tokens \(left out: nothing\): give more text"):
        pack_corpora([f"file:{path}"], target, length=99_999, **given)
