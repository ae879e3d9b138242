"""Corpora by name: the bundled sample, local files, and splits that a corpus lacks."""

import hashlib
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import pyarrow
import pyarrow.parquet
import pytest

from drafter_trainer.corpora.conversations import Conversation
from drafter_trainer.corpora.decontamination import normalize
from drafter_trainer.corpora.reading import (
    CorpusName,
    Document,
    Sentence,
    describe_corpus,
    read_documents,
    read_sentences,
    read_texts,
)
from drafter_trainer.corpora.sample import LANGUAGES, SPLITS, sample_rows, sample_sentences, sample_stories
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_language, get_pair, translation_prompt
from tests.corpora.test_questions import spec_bench

PAIR = get_pair("de-en")


def write_jsonl(path: Path, *rows: dict[str, Any]) -> str:
    return f"file:{spec_bench(path, *rows)}"


def sentences(name: str, pair: str = "de-en") -> list[Sentence]:
    return [row for split in ("train", "validation") for row in read_sentences(name, get_pair(pair), split)]


def documents(name: str) -> list[Document]:
    return [row for split in ("train", "validation") for row in read_documents(name, PAIR, split)]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sample", ("sample", None, None)),
        ("wmt16", ("wmt16", None, None)),
        ("wmt16@abc", ("wmt16", None, "abc")),
        ("c4:de", ("c4", "de", None)),
        ("c4:de@abc", ("c4", "de", "abc")),
        ("c4@abc:de", ("c4", "de", "abc")),
        ("file:a@b.txt", ("file", "a@b.txt", None)),
        ("file:folder:with/colon.txt", ("file", "folder:with/colon.txt", None)),
    ],
)
def test_name_is_taken_apart(name: str, parts: tuple[str, str | None, str | None]) -> None:
    """A lost revision would read another commit silently; an @ in a file's name is not a revision."""
    corpus = CorpusName.parse(name)
    assert (corpus.kind, corpus.argument, corpus.revision) == parts


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        # A mistyped name must not be looked for on the Hub.
        (read_sentences, "wmt15", r"unknown corpus 'wmt15': .*sample.*wmt14.*jparacrawl.*c4.*file:PATH"),
        (read_documents, "wmt15", "unknown corpus 'wmt15': .*sample.*wmt14.*jparacrawl.*c4.*file:PATH"),
        (lambda name, *_: iter([describe_corpus(name)]), "wmt15", "unknown corpus 'wmt15'"),
        (read_sentences, "c4", "c4 has no sentences to translate: .*wmt16"),
        (read_documents, "wmt16", "wmt16 has no text to pretrain on: .*c4"),
    ],
)
def test_corpus_that_cannot_serve_is_rejected(read: Any, name: str, message: str) -> None:
    """Plain text must not become translation prompts, nor translation pairs plain text."""
    with pytest.raises(InputError, match=message):
        next(read(name, PAIR, "train"))


def test_lines_of_a_file_are_sentences_or_documents(tmp_path: Path) -> None:
    """White space would change the prompt, and a blank line would end the run."""
    path = tmp_path / "a.txt"
    path.write_text("Guten Tag.\n  Bis morgen!\t\n", encoding="utf-8")
    assert sorted(sentences(f"file:{path}"), key=lambda row: row.source_id) == [
        Sentence(f"{path}, line 1", "Guten Tag."),
        Sentence(f"{path}, line 2", "Bis morgen!"),
    ]
    path.write_text("Eins.\n\n  \t\nZwei.\n", encoding="utf-8")
    assert sorted(row.text for row in documents(f"file:{path}")) == ["Eins.", "Zwei."]


@pytest.mark.parametrize(
    ("row", "text", "reference"),
    [
        ({"text": "Ja."}, "Ja.", None),
        ({"source": "Ja.", "target": "Yes."}, "Ja.", "Yes."),
        ({"translation": {"en": "Yes.", "de": "Ja.", "fr": "Oui."}}, "Ja.", "Yes."),
        ({"translation": {"de": "Ja."}}, "Ja.", None),
    ],
)
def test_rows_of_each_schema_are_sentences(tmp_path: Path, row: dict, text: str, reference: str | None) -> None:
    """A documented schema, or a language under another code (npi, nep, ne), would not be read."""
    nepali = write_jsonl(tmp_path / "a.jsonl", {"translation": {"npi": "नमस्ते", "eng": "Hello"}})
    assert [(read.text, read.reference) for read in sentences(nepali, "ne-en")] == [("नमस्ते", "Hello")]
    assert [(read.text, read.reference) for read in sentences(nepali, "en-npi")] == [("Hello", "नमस्ते")]
    name = write_jsonl(tmp_path / "a.jsonl", row)
    assert [(read.text, read.reference) for read in sentences(name)] == [(text, reference)]
    if "translation" in row and reference:  # rows that name their languages serve both directions
        assert [(read.text, read.reference) for read in sentences(name, "en-de")] == [(reference, text)]


@pytest.mark.parametrize(
    "row", [{}, {"text": ""}, {"text": " "}, {"text": 3}, {"source": None}, {"translation": {"fr": "Oui."}}]
)
def test_row_without_a_sentence_is_named(tmp_path: Path, row: dict) -> None:
    """A missing sentence must raise an error with file and line, and never become an empty prompt."""
    name = write_jsonl(tmp_path / "a.jsonl", {"text": "Eins."}, row)
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: no sentence: .*in German"):
        sentences(name)
    # In a file of sentences a blank line is a gap too: line numbers of a parallel file would no longer agree.
    (tmp_path / "a.txt").write_text("Eins.\n\nDrei.\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.txt, line 2: no sentence"):
        sentences(f"file:{tmp_path / 'a.txt'}")


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"text": None},
        {"messages": []},
        {"conversations": []},
        {"messages": "Hallo"},
        {"messages": ["Hallo"]},
        {"messages": [{"role": "narrator", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"conversations": [{"from": "human"}]},
        {"messages": [{"role": ["user"], "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": 3}}]}]},
        {"messages": [{"role": "user", "content": "x"}], "system": ["y"]},
        {"messages": [{"role": "user", "content": "x"}], "tools": "search"},
    ],
)
def test_row_without_a_document_is_named(tmp_path: Path, row: dict) -> None:
    """A row that is neither a text nor a conversation must raise an error with file and line."""
    name = write_jsonl(tmp_path / "a.jsonl", {"text": "Eins."}, row)
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: (no document|a message needs|tool|system is)"):
        documents(name)


def test_rows_of_the_hub_that_cannot_be_used_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users cannot correct a row on the Hub: one in millions would end every pretraining."""
    monkeypatch.setattr("drafter_trainer.corpora.reading.stream", lambda *_: [{"text": "Eins."}, {"text": 3}])
    drops = Counter()
    assert [row.text for row in read_documents("c4", PAIR, "train", drops)] == ["Eins."]
    assert drops == Counter({"bad row: no document": 1})


def test_nothing_of_a_conversation_is_lost(tmp_path: Path) -> None:
    """System prompts, tools, calls and reasoning must be read from columns, JSON in a text, and parts."""
    search = {"name": "search", "parameters": {"type": "object"}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Wie "}, {"type": "text", "text": "warm?"}]},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "tool_calls": [{"name": "search", "arguments": '{"q": "Ulm"}'}],
        },
        {"role": "tool", "content": "21", "name": "search"},
    ]
    row = {"system": "Kurz.", "tools": json.dumps([search]), "messages": turns}
    [read] = documents(write_jsonl(tmp_path / "a.jsonl", row))
    call = {"type": "function", "function": {"name": "search", "arguments": {"q": "Ulm"}}}
    assert read.conversation == Conversation(
        [
            {"role": "system", "content": "Kurz."},
            {"role": "user", "content": "Wie warm?"},
            {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]},
            {"role": "tool", "content": "21", "name": "search"},
        ],
        [{"type": "function", "function": search}],
    )
    assert all(
        expected in read.conversation.text() for expected in ("Kurz.", "Hm.", "Ulm", "search")
    )  # for decontamination


def test_hold_out_parts_a_file_without_loss(tmp_path: Path) -> None:
    """A sentence in two splits would be validated on after training, a sentence in none would be lost."""
    path = tmp_path / "a.txt"
    lines = [f"Satz {number}." for number in range(3000)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    train, validation, test = (
        [row.text for row in read_sentences(f"file:{path}", PAIR, split)] for split in ("train", "validation", "test")
    )
    assert sorted(train + validation + test) == sorted(lines)  # each in one split
    for held_out in (validation, test):
        assert 30 <= len(held_out) <= 90  # 2 % of 3000, give or take four standard deviations
    assert train == [line for line in lines if line in set(train)]
    lines = [f"Satz {number % 500}." for number in range(1000)]
    chosen = []
    for moved in (lines, lines[7:] + lines[:7]):
        path.write_text("".join(f"{line}\n" for line in moved), encoding="utf-8")
        chosen.append(sorted(row.text for row in read_sentences(f"file:{path}", PAIR, "validation")))
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 2 * len(set(chosen[0])) > 0


def test_file_is_described_by_its_content(tmp_path: Path) -> None:
    """An edited file must not count as the same corpus, and no path may get into a card."""
    name = write_jsonl(tmp_path / "a.jsonl", {"text": "Eins."})
    with pytest.raises(InputError, match="no such file"):
        describe_corpus("file:nowhere.txt")
    digest = hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    assert describe_corpus(name) == {"name": "file:a.jsonl", "sha256": digest}
    write_jsonl(tmp_path / "a.jsonl", {"text": "Zwei."})
    assert describe_corpus(name)["sha256"] != digest
    (tmp_path / "shards").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Eins."] * 200}), tmp_path / "shards" / "0.parquet")
    described = describe_corpus(f"file:{tmp_path / 'shards'}")
    assert described["name"] == "file:shards"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Zwei."] * 200}), tmp_path / "shards" / "1.parquet")
    assert described != describe_corpus(f"file:{tmp_path / 'shards'}")
    assert len(documents(f"file:{tmp_path / 'shards'}")) == 400


def test_texts_are_in_one_language(tmp_path: Path) -> None:
    """Text in another language would teach the drafter a language that it never drafts."""
    rows = [{"text": row["de"]} for row in sample_rows("train")]
    name = write_jsonl(tmp_path / "a.jsonl", *rows)
    read = [document.text for split in ("train", "validation") for document in read_texts(name, PAIR.source, split)]
    assert sorted(read) == sorted(row["text"] for row in rows)
    with pytest.raises(InputError, match="another language than English, most often in German"):
        next(read_texts(name, PAIR.target, "train"))
    texts = [document.text for document in read_texts("sample", get_language("fr"), "validation")]
    assert texts == [row["fr"] for row in sample_rows("validation")]
    with pytest.raises(InputError, match="no Occitan: use your own text, as file:PATH"):
        next(read_texts("sample", get_language("oci"), "train"))


ROWS = {split: list(sample_rows(split)) for split in SPLITS}
EVERY_ROW = [row for split in SPLITS for row in ROWS[split]]


def test_every_row_has_every_language() -> None:
    """A row without a language would end the run of one pair only."""
    assert set(LANGUAGES) == {"en", "de", "fr", "ru", "ja", "zh"}
    for row in EVERY_ROW:
        assert row.keys() == {"id", "domain", *LANGUAGES}
        assert all(row[language] == row[language].strip() != "" for language in LANGUAGES), row["id"]
        assert not any("\n" in row[language] for language in LANGUAGES), row["id"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_stands_twice(language: str) -> None:
    """A test sentence in training would make the benchmark worthless, even in one language only."""
    folded = Counter(re.sub(r"[\W_]+", "", row[language].casefold()) for row in EVERY_ROW)
    assert [text for text, count in folded.items() if count > 1] == []


@pytest.mark.parametrize(("pair", "named"), [("es-en", "Spanish"), ("uk-pl", "Ukrainian")])
def test_pair_outside_the_sample_is_rejected(pair: str, named: str) -> None:
    """Errors must name the missing language and the available splits."""
    with pytest.raises(InputError, match=rf"no {named}: use your own corpus and questions"):
        next(sample_sentences(get_pair(pair), "train"))
    with pytest.raises(InputError, match="'dev': it has train, validation, test"):
        next(sample_rows("dev"))


STORIES = {split: list(sample_stories(split)) for split in SPLITS}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_part_of_a_subject_stands_in_two_splits(language: str) -> None:
    """Parts of validation subjects in training would be drafted from memory."""
    joint = {"en": " and ", "de": " und ", "fr": " et ", "ru": " и о ", "ja": "と", "zh": "和"}[language]
    subjects = {split: [subject[language] for _, subject in stories] for split, stories in STORIES.items()}
    parts = {split: {part for subject in subjects[split] for part in subject.split(joint)} for split in SPLITS[:2]}
    assert all(subject.count(joint) == 1 for split in parts for subject in subjects[split])
    assert parts["train"].isdisjoint(parts["validation"])
    told = normalize(" ".join(subjects["test"]))
    assert not any(normalize(part) in told for part in parts["train"] | parts["validation"])


def test_examples_of_the_few_shot_template_are_training_sentences() -> None:
    """Prevent evaluation questions, or sentences in another language, as examples of the prompt."""
    template = Path(__file__).parents[2] / "recipes" / "configs" / "gemma-3-270m" / "chat_template.jinja"
    rows = ROWS["train"]
    for source, target in itertools.permutations(LANGUAGES, 2):
        pair = get_pair(f"{source}-{target}")
        messages = [{"role": "user", "content": translation_prompt(pair, "one: two")}]
        text = jinja2.Template(template.read_text(encoding="utf-8")).render(messages=messages, bos_token="<s>")
        *examples, asked = text.removeprefix("<s>").split("\n\n")
        assert asked == f"{pair.source.name}: one: two\n{pair.target.name}:"
        known = [f"{pair.source.name}: {row[source]}\n{pair.target.name}: {row[target]}" for row in rows]
        assert len(examples) == (3 if {source, target} == {"de", "en"} else 5)  # three long ones there
        assert set(examples) <= set(known)
