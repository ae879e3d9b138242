"""Corpora of the Hub, read by the real client from small repositories of their true schema."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from tests.hub.test_loopback_hub import run_client
from tests.loopback_hub import LoopbackHub

GERMAN = [("Guten Morgen.", "Good morning."), ("  Wie geht es?  ", "How are you?\n"), (" ", "Nothing here.")]
TESTED = [("Der Zug hält.", "The train stops."), ("Es regnet.", "It rains.")]
RUSSIAN = [("Доброе утро.", "Good morning.")]
FRENCH = [("Bonjour, l'été !", "Hello, summer!")]
CHINESE = [("早上好。", "Good morning.")]
# The line of a TSV file that a reader of spreadsheets takes for a missing value or an open quotation mark.
JAPANESE = [(f"これは{number}番目の文です。", f"This is sentence number {number}.") for number in range(400)]
JAPANESE += [("該当なし", "N/A"), ("なし", "None"), ("彼は「はい」と言った。", 'He said "yes".'), ("ヌル", "null")]


def parquet(source: str, target: str, rows: list[tuple[str, str]]) -> bytes:
    """Write sentences as the WMT repositories hold them: a struct column `translation`."""
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
    """Write documents as C4 holds them."""
    rows = [{"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org/"} for text in texts]
    return gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def conversation(name: str, *turns: str) -> dict[str, Any]:
    """Make a conversation as ShareGPT holds it."""
    roles = ("human", "gpt")
    return {
        "id": name,
        "conversations": [{"from": roles[number % 2], "value": turn} for number, turn in enumerate(turns)],
    }


def fill(hub: LoopbackHub) -> dict[str, str]:
    """Store every corpus that the package knows by name; return two commits of wmt/wmt16."""
    splits = {"train": GERMAN, "validation": TESTED[:1], "test": [("Alt.", "Old.")]}
    russian = {"train": RUSSIAN, "validation": RUSSIAN, "test": RUSSIAN}
    first = hub.add_repo("wmt/wmt16", wmt({"de-en": splits, "ru-en": russian}), "dataset")
    repo = hub.repos["dataset", "wmt/wmt16"]
    later = hub.store(repo, parquet("de", "en", TESTED), lfs=True)
    files = repo.at("main").files | {"de-en/test-00000-of-00001.parquet": later}
    second = repo.commit("main", "wmt", "another test split", files)
    french = {"train": FRENCH, "validation": FRENCH, "test": FRENCH}
    hub.add_repo("wmt/wmt14", wmt({"fr-en": french}), "dataset")
    hub.add_repo("wmt/wmt19", wmt({"zh-en": {"train": CHINESE, "validation": CHINESE}}), "dataset")
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
    return {"first": first, "second": second}


def read_corpora(first: str) -> dict:
    """Read everything in one process, since each costs seconds."""
    import dataclasses

    from drafter_trainer.corpora import describe_corpus, read_documents, read_sentences
    from drafter_trainer.corpora.hub import TEXT_CORPORA, stream
    from drafter_trainer.corpora.questions import load_questions
    from drafter_trainer.errors import InputError
    from drafter_trainer.languages import get_pair

    def take(read, name, pair, split):
        try:
            rows = read(name, get_pair(pair), split) if split else read(name, get_pair(pair))
            return [dataclasses.asdict(row) for row in rows]
        except InputError as error:
            return f"InputError: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    seen = {}
    for name, pair, split in [
        ("wmt14", "fr-en", "train"),
        ("wmt14", "en-fr", "test"),
        ("wmt16", "de-en", "train"),
        ("wmt16", "en-de", "train"),
        ("wmt16", "de-en", "validation"),
        ("wmt16", "de-en", "test"),
        (f"wmt16@{first}", "de-en", "test"),
        ("wmt16@" + "0" * 40, "de-en", "test"),
        ("wmt16", "ru-en", "train"),
        ("wmt16", "fr-en", "train"),
        ("wmt19", "zh-en", "validation"),
        ("wmt19", "zh-en", "test"),
        ("jparacrawl", "ja-en", "train"),
        ("jparacrawl", "ja-en", "validation"),
        ("jparacrawl", "en-ja", "train"),
        ("jparacrawl", "ja-en", "test"),
    ]:
        seen[f"{name} {pair} {split}"] = take(read_sentences, name, pair, split)
    for name, split in [
        ("c4", "train"),
        ("c4", "validation"),
        ("c4:de", "train"),
        ("c4:de", "validation"),
        ("c4:xx", "train"),
        ("c4", "test"),
        ("sharegpt", "train"),
        ("sharegpt", "validation"),
    ]:
        seen[f"{name} {split}"] = take(read_documents, name, "de-en", split)
    for name, pair in (("wmt16", "de-en"), ("wmt19", "zh-en"), (f"wmt16@{first}", "en-de")):
        seen[f"questions {name} {pair}"] = take(load_questions, name, pair, None)
    for name in ("wmt16", f"wmt16@{first}", "c4:de"):
        seen[f"about {name}"] = describe_corpus(name)
    for name in ("wmt16@" + "0" * 40,):
        try:
            seen[f"about {name}"] = describe_corpus(name)
        except Exception as error:
            seen[f"about {name}"] = f"{type(error).__name__}: {error}"
    missing = dataclasses.replace(TEXT_CORPORA["c4"], repo="nobody/nothing")
    seen["missing"] = take(lambda *_: stream(missing, "en", "train", None), "", "de-en", None)
    return seen
