"""Corpora on the Hub, read by the real client from small repositories of the same schema."""

import gzip
import io
import json
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from tests.client import run_client
from tests.loopback_hub import LoopbackHub

GERMAN = [("Guten Morgen.", "Good morning."), ("  Wie geht es?  ", "How are you?\n"), (" ", "Nothing here.")]
TESTED = [("Der Zug hält.", "The train stops."), ("Es regnet.", "It rains.")]
FRENCH = [("Bonjour, l'été !", "Hello, summer!")]
CHINESE = [("早上好。", "Good morning.")]
HELD_OUT = [(f"这是第{number}句。", f"This is sentence number {number}.") for number in range(20)]
# Some look like missing values or the beginning of a quoted field.
JAPANESE = [(f"これは{number}番目の文です。", f"This is sentence number {number}.") for number in range(400)]
JAPANESE += [("該当なし", "N/A"), ("なし", "None"), ("彼は「はい」と言った。", 'He expected "yes".'), ("ヌル", "null")]


def parquet(source: str, target: str, rows: list[tuple[str, str]]) -> bytes:
    """Write sentences in the schema of the WMT repositories: a struct column `translation`."""
    column = [{source: foreign, target: english} for foreign, english in rows]
    schema = pyarrow.struct([(source, pyarrow.string()), (target, pyarrow.string())])
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"translation": pyarrow.array(column, schema)}), file)
    return file.getvalue()


def card(configs: dict[str, dict[str, str]], **more: Any) -> str:
    """Write a dataset card that names the files of each split of each configuration."""
    entries = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs.items()
    ]
    return f"---\n{yaml.safe_dump({'configs': entries, **more})}---\n# A corpus\n"


def wmt(pairs: dict[str, dict[str, list[tuple[str, str]]]]) -> dict[str, bytes | str]:
    """Make the files of a WMT repository: a folder per pair, a Parquet file per split."""
    configs = {pair: {split: f"{pair}/{split}-*" for split in splits} for pair, splits in pairs.items()}
    features = {
        pair: [{"name": "translation", "dtype": {"translation": {"languages": pair.split("-")}}}] for pair in pairs
    }
    infos = [{"config_name": pair, "features": features[pair]} for pair in pairs]
    files: dict[str, bytes | str] = {"README.md": card(configs, dataset_info=infos)}
    for pair, splits in pairs.items():
        for split, rows in splits.items():
            files[f"{pair}/{split}-00000-of-00001.parquet"] = parquet(*pair.split("-"), rows)
    return files


def json_lines(*texts: str) -> bytes:
    rows = [{"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org/"} for text in texts]
    return gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def conversation(name: str, *turns: str) -> dict[str, Any]:
    roles = ("human", "gpt")
    return {
        "id": name,
        "conversations": [{"from": roles[number % 2], "value": turn} for number, turn in enumerate(turns)],
    }


def fill(hub: LoopbackHub) -> dict[str, str]:
    """Store every corpus that the package knows by name and a damaged one; return two commits of wmt/wmt16."""
    splits = {"train": GERMAN, "validation": TESTED[:1], "test": [("Alt.", "Old.")]}
    first = hub.add_repo("wmt/wmt16", wmt({"de-en": splits, "ru-en": {"train": [("Да.", "Yes.")]}}), "dataset")
    repo = hub.repos["dataset", "wmt/wmt16"]
    later = hub.store(repo, parquet("de", "en", TESTED), lfs=True)
    files = repo.at("main").files | {"de-en/test-00000-of-00001.parquet": later}
    second = repo.commit("main", "wmt", "another test split", files)
    french = {"train": FRENCH, "validation": FRENCH, "test": FRENCH}
    hub.add_repo("wmt/wmt14", wmt({"fr-en": french}), "dataset")
    hub.add_repo("wmt/wmt19", wmt({"zh-en": {"train": CHINESE, "validation": HELD_OUT}}), "dataset")
    header = "english\tjapanese\tmodel1_accepted\tmodel2_accepted\n"
    table = header + "".join(f"{english}\t{japanese}\t1\t0\n" for japanese, english in JAPANESE)
    hub.add_repo(
        "Verah/JParaCrawl-Filtered-English-Japanese-Parallel-Corpus",
        {"README.md": "---\nlanguage: [en, ja]\n---\n", "1m_filtered.tsv.gz": gzip.compress(table.encode())},
        "dataset",
    )
    english = {"train": "en/c4-train.*.json.gz", "validation": "en/c4-validation.*.json.gz"}
    german = {"train": "multilingual/c4-de.*.json.gz", "validation": "multilingual/c4-de-validation.*.json.gz"}
    hub.add_repo(
        "allenai/c4",
        {
            "README.md": card({"en": english, "de": german}),
            "en/c4-train.00000-of-00002.json.gz": json_lines("First page.\nIts second line.", "Second page."),
            "en/c4-train.00001-of-00002.json.gz": json_lines("Third page."),
            "en/c4-validation.00000-of-00001.json.gz": json_lines("A page held out."),
            "multilingual/c4-de.tfrecord-00000-of-00001.json.gz": json_lines("Erste Seite."),
            "multilingual/c4-de-validation.tfrecord-00000-of-00001.json.gz": json_lines("Zurückgehaltene Seite."),
        },
        "dataset",
    )
    conversations = [conversation(f"c{number}", f"Question {number}?", f"Answer {number}.") for number in range(300)]
    conversations.insert(5, conversation("empty"))
    hub.add_repo(
        "Aeala/ShareGPT_Vicuna_unfiltered",
        {
            "README.md": "---\nlicense: apache-2.0\n---\n",
            "ShareGPT_V4.3_unfiltered_cleaned_split.json": json.dumps(conversations, indent=2),
            "ShareGPT_2023.05.04v0_Wasteland_Edition.json": json.dumps([conversation("w", "Wasteland?", "No.")]),
        },
        "dataset",
    )
    hub.add_repo("somebody/damaged", {"train.jsonl.gz": json_lines("A page that breaks off.")[:-20]}, "dataset")
    return {"first": first, "second": second}


# Corpus, pair and split; NOWHERE is a commit that is not there
NOWHERE = "0" * 40
PARALLEL = f"""wmt14 fr-en train, wmt14 en-fr test, wmt16 de-en train, wmt16 en-de train, wmt16 de-en validation,
wmt16 de-en test, wmt16@FIRST de-en test, wmt16@{NOWHERE} de-en test, wmt16 fr-en train, wmt19 zh-en validation,
wmt19 zh-en test, jparacrawl ja-en train, jparacrawl ja-en validation, jparacrawl en-ja train, jparacrawl ja-en test"""
TEXTS = (
    "c4 train, c4 validation, c4:de train, c4:de validation, c4:xx train, c4 test, sharegpt train, sharegpt validation"
)


def read_corpora(parallel: list, texts: list, first: str) -> dict:
    """Read everything in one process, since each costs seconds."""
    import dataclasses

    from drafter_trainer.corpora.catalog import TEXT_CORPORA, stream
    from drafter_trainer.corpora.questions import load_questions
    from drafter_trainer.corpora.reading import describe_corpus, read_documents, read_sentences
    from drafter_trainer.errors import InputError
    from drafter_trainer.languages import get_pair

    def take(read, *given):
        try:
            return [dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in read(*given)]
        except InputError as error:
            return str(error)

    seen = {}
    for key in parallel:
        name, pair, split = key.split()
        seen[key] = take(read_sentences, name, get_pair(pair), split)
    for key in texts:
        name, split = key.split()
        seen[key] = take(read_documents, name, get_pair("de-en"), split)
    for name, pair in (("wmt16", "de-en"), ("wmt19", "zh-en"), (f"wmt16@{first}", "en-de")):
        seen[f"questions {name} {pair}"] = take(load_questions, name, get_pair(pair))
    for name in ("wmt16", f"wmt16@{first}", "c4:de"):
        seen[f"about {name}"] = describe_corpus(name)
    missing = dataclasses.replace(TEXT_CORPORA["c4"], repo="nobody/nothing")
    seen["missing"] = take(stream, missing, "en", "train", None)
    seen["damaged"] = take(stream, dataclasses.replace(missing, repo="somebody/damaged"), None, "train", None)
    return seen


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rows that a process read from the loopback Hub, and the Hub's commits."""
    folder = tmp_path_factory.mktemp("corpora")
    with LoopbackHub(folder / "hub", {}) as hub:
        commits = fill(hub)
        keys = (" ".join(text.replace("FIRST", commits["first"]).split()).split(", ") for text in (PARALLEL, TEXTS))
        given = dict(zip(("parallel", "texts"), keys), first=commits["first"])
        read = run_client(hub, folder / "home", read_corpora, **given)
        return {**read, "commits": commits, "requests": [path for _, path in hub.requests]}


def sentences(seen: dict[str, Any], key: str) -> list[tuple[str, str]]:
    assert isinstance(seen[key], list), seen[key]
    return [(row["text"], row["reference"]) for row in seen[key]]


def test_parallel_corpora_are_read_in_both_directions_by_split(seen: dict[str, Any]) -> None:
    """The directions, blank lines and splits must not be confused."""
    assert sentences(seen, "wmt14 fr-en train") == FRENCH
    assert sentences(seen, "wmt14 en-fr test") == [(english, french) for french, english in FRENCH]
    validation, test = sentences(seen, "wmt19 zh-en validation"), sentences(seen, "wmt19 zh-en test")
    assert sorted(validation + test) == sorted(HELD_OUT)
    assert validation
    assert test
    stripped = [("Guten Morgen.", "Good morning."), ("Wie geht es?", "How are you?")]
    assert sentences(seen, "wmt16 de-en train") == stripped
    assert len(sentences(seen, "wmt16 en-de train")) == 3
    assert sentences(seen, "wmt16 de-en validation") == TESTED[:1]
    assert sentences(seen, "wmt16 de-en test") == TESTED


def test_pinned_revision_is_read_and_named(seen: dict[str, Any]) -> None:
    """A lost revision would read the newest commit, and a branch's name would not identify it."""
    first, second = seen["commits"]["first"], seen["commits"]["second"]
    assert sentences(seen, f"wmt16@{first} de-en test") == [("Alt.", "Old.")]
    asked = {"question_id": "wmt16/test/1", "prompt": "Translate English to German: Old.", "text": "Old."}
    assert seen[f"questions wmt16@{first} en-de"] == [asked | {"earlier": [], "reference": "Alt."}]
    assert seen["about wmt16"] == {"name": "wmt16", "repo": "wmt/wmt16", "revision": second, "licence": "unknown"}
    assert seen[f"about wmt16@{first}"]["revision"] == first
    assert seen["about c4:de"]["repo"] == "allenai/c4"
    assert len(seen["about c4:de"]["revision"]) == 40


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("wmt16 fr-en train", ["wmt16", "fr-en", "de-en, ru-en"]),
        ("c4:xx train", ["allenai/c4", "xx", "'en', 'de'"]),
        ("c4 test", ["c4", "'test'", "train, validation"]),
        (f"wmt16@{NOWHERE} de-en test", ["wmt/wmt16", NOWHERE]),
        ("missing", ["nobody/nothing", "doesn't exist"]),
        ("damaged", ["somebody/damaged", "cannot be read"]),
    ],
)
def test_what_is_not_there_is_named(seen: dict[str, Any], key: str, named: list[str]) -> None:
    """A mistyped pair, split or revision must raise a one-line error that names it."""
    message = seen[key]
    assert isinstance(message, str)
    assert "\n" not in message
    for part in named:
        assert part in message


def test_corpus_without_splits_holds_sentences_out(seen: dict[str, Any]) -> None:
    """A sentence in two splits would be validated on after training, a sentence in none would be lost."""
    train, validation, test = (
        sentences(seen, f"jparacrawl ja-en {split}") for split in ("train", "validation", "test")
    )
    assert 1 <= len(validation) <= 20
    assert 1 <= len(test) <= 20
    assert sorted(train + validation + test) == sorted(JAPANESE)
    # Its columns are named by language, and must not be swapped.
    backward = sentences(seen, "jparacrawl en-ja train")
    assert set(backward) <= {(english, japanese) for japanese, english in JAPANESE}
    assert len(backward) > 370


def test_conversations_become_messages(seen: dict[str, Any]) -> None:
    """Chat templates have no roles human and gpt; two overlapping collections would repeat rows."""
    first, *_ = seen["sharegpt train"]
    assert first["conversation"]["messages"] == [
        {"role": "user", "content": "Question 0?"},
        {"role": "assistant", "content": "Answer 0."},
    ]
    assert first["text"] is None
    both = seen["sharegpt train"] + seen["sharegpt validation"]
    assert len(both) == len({row["conversation"]["messages"][0]["content"] for row in both}) == 300
    assert not any("Wasteland" in path and "/resolve/" in path for path in seen["requests"])


def test_questions_come_from_the_test_split(seen: dict[str, Any]) -> None:
    """WMT19 has no test split; questions from its training or validation would be trained or selected on."""
    asked = seen["questions wmt16 de-en"]
    assert [question["text"] for question in asked] == [german for german, _ in TESTED]
    assert asked[0]["prompt"] == "Translate German to English: Der Zug hält."
    chinese = [question["text"] for question in seen["questions wmt19 zh-en"]]
    assert chinese == [source for source, _ in sentences(seen, "wmt19 zh-en test")]


def test_web_text_is_read_by_language_and_split(seen: dict[str, Any]) -> None:
    """c4 without a language must be English."""
    texts = {key: [row["text"] for row in seen[key]] for key in ("c4 train", "c4 validation", "c4:de train")}
    assert texts["c4 train"] == ["First page.\nIts second line.", "Second page.", "Third page."]
    assert texts["c4 validation"] == ["A page held out."]
    assert texts["c4:de train"] == ["Erste Seite."]
    assert [row["text"] for row in seen["c4:de validation"]] == ["Zurückgehaltene Seite."]
