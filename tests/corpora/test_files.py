"""Local files, errors that name their damaged lines, and the inspection of a user's text."""

import gzip
import itertools
import json
import pickle
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from drafter_trainer.corpora.files import BadRowError, read_json_lines, read_lines, read_rows
from drafter_trainer.corpora.inspection import inspect_text
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.errors import InputError
from drafter_trainer.languages import LANGUAGES, get_language

ROWS = [{"text": "Grüße aus Köln."}, {"text": "明日は雨です。"}, {"text": "Ещё одна строка."}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    lines = [row["text"] if ".txt" in path.name else json.dumps(row, ensure_ascii=False) for row in rows]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    """Read a file that must raise an error; return the message."""
    with pytest.raises(InputError) as caught:
        list(read(path))
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a.txt.gz", "a.2.parquet", "a.de.jsonl"])
def test_rows_are_read_in_order(tmp_path: Path, name: str) -> None:
    """Another format would have other rows, or rows in another order."""
    path = write_rows(tmp_path / name, ROWS)
    assert [row for _, row in read_rows(path)] == ROWS


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, inside: str) -> None:
    """Text from the web has U+2028 and the like inside JSON objects."""
    row = {"text": f"before{inside}after"}
    (tmp_path / "a.jsonl").write_bytes(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    (tmp_path / "a.txt").write_bytes(f"{row['text']}\nnext\n".encode())
    assert [line for _, line in read_lines(tmp_path / "a.txt")] == [row["text"], "next"]
    assert list(read_json_lines(tmp_path / "a.jsonl")) == [(1, row)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines_and_byte_order_marks_are_no_text(tmp_path: Path, end: str) -> None:
    """They would become tokens of a prompt, or invalid JSON; concatenated files have marks inside."""
    lines = ["\ufeffEins", "", "\ufeffZwei", "Drei"]
    for last in (end, ""):
        (tmp_path / "a.txt").write_bytes((end.join(lines) + last).encode())
        assert list(read_lines(tmp_path / "a.txt")) == [(1, "Eins"), (2, ""), (3, "Zwei"), (4, "Drei")]
        rows = [
            f'{{"text": "{line}"}}' if line[0] != "\ufeff" else f'\ufeff{{"text": "{line[1:]}"}}'
            for line in lines
            if line
        ]
        (tmp_path / "a.JSONL").write_bytes((end.join(rows) + last).encode())
        assert [row["text"] for _, row in read_rows(tmp_path / "a.JSONL")] == ["Eins", "Zwei", "Drei"]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("", "empty line"),
        ("   ", "empty line"),
        ('{"text": ', "not JSON"),
        ("Just text.", "not JSON"),
        ('["text"]', "got a JSON list"),
        ("3", "got a JSON int"),
        ("null", "got a JSON NoneType"),
        (r'{"text": "Bis gleich \ud83d"}', r"half of a surrogate pair (\ud83d after "),
        (r'{"turns": [["a", {"\uDE00 b": 1}]]}', r"half of a surrogate pair (\ude00 after "),
        (f'{{"question_id": {"7" * 5000}}}', "not JSON (Exceeds the limit (4300 digits)"),
        (f'{{"text": {"[" * 100_000}{"]" * 100_000}}}', "not JSON (maximum recursion depth"),
    ],
)
def test_line_that_is_no_object_is_named(tmp_path: Path, second: str, expected: str) -> None:
    """In a file of a million lines, an error without a line number cannot be corrected."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "Eins"}}\n{second}\n{{"text": "Drei"}}\n', encoding="utf-8")
    message = refusal(read_rows, path)
    assert f"{path}, line 2: " in message
    assert expected in message


def test_rows_of_a_table_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Invalid UTF-8 in a table must end in one line, not in a traceback."""
    column = pyarrow.array([b"Eins", b"\xed\xa0\xbd", b"Drei"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, column.buffers())
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), path)
    assert "after row 0: damaged Parquet file" in refusal(read_rows, path)


def test_error_of_a_row_comes_back_from_another_process() -> None:
    """An exception that pickle cannot restore would break the pool of processes that packs."""
    error = BadRowError("file:x, row 2", "no text", ": mend it")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason) == ("file:x, row 2: no text: mend it", "no text") == (str(error), error.reason)


def test_a_folder_is_all_of_its_parquet_files(tmp_path: Path) -> None:
    """Datasets have several shards; success markers and caches next to them must be ignored."""
    for number, place in enumerate(("b.PARQUET", "a/part-1.parquet", ".cache/c.parquet", "_temporary/d.parquet")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": [str(number)]}), tmp_path / place)
    (tmp_path / "_SUCCESS").touch()
    assert [row["text"] for _, row in read_rows(tmp_path)] == ["1", "0"]
    (tmp_path / "empty").mkdir()
    assert "a folder without .parquet files" in refusal(read_rows, tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "plain\nGrüße\n".encode("latin-1"),
            r"line 2: not UTF-8 \(byte 0xfc after 'Gr'\).*iconv -f WINDOWS-1252 -t UTF-8",
        ),
        ("plain\n".encode("utf-16-le"), r"line 1: not UTF-8 \(byte 0x00 after 'p'\).*iconv -f UTF-16 -t UTF-8"),
        ("a\nЯ\n".encode("utf-16-be"), r"line 1: not UTF-8 \(byte 0x00 after ''\).*iconv -f UTF-16 -t UTF-8"),
        ("plain\nпривет\n".encode("cp1251"), r"line 2: not UTF-8 \(byte 0xef after ''\)"),
        ("plain\n".encode("utf-16"), r"line 1: not UTF-8 \(byte 0xff after ''\).*iconv -f UTF-16 -t UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_wrong_encoding_is_located(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    """The error must locate the letter; UTF-16 without a byte order mark is valid UTF-8 with NULs."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    assert re.search(expected, refusal(read_rows, path))


def test_damaged_gzip_is_rejected(tmp_path: Path) -> None:
    """An incomplete download must not count as a smaller corpus; flipped bits raise another error."""
    path = tmp_path / "a.jsonl.gz"
    numbers = random.Random(0)  # incompressible, so that a truncated file has whole lines
    lines = "".join(f'{{"text": "{numbers.getrandbits(60)}"}}\n' for _ in range(20_000))
    packed = gzip.compress(lines.encode(), mtime=0)
    middle = len(packed) // 2
    path.write_bytes(packed[:middle])
    assert 0 < int(re.search(r"after line (\d+): damaged gzip", refusal(read_rows, path))[1]) < 20_000
    path.write_bytes(packed[:middle] + b"\xff" * 64 + packed[middle + 64 :])
    # The altered bits break the stream or a line; the error names both.
    assert re.search(r"line \d+: (damaged gzip|not UTF-8|not JSON)", refusal(read_rows, path))


@pytest.mark.parametrize("content", [gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, b"plain text\n"])
def test_file_that_only_claims_to_be_packed_is_rejected(tmp_path: Path, content: bytes) -> None:
    """Plain text named .gz is a common mistake; zlib, not gzip, reports a block of the reserved type."""
    (tmp_path / "a.txt.gz").write_bytes(content)
    assert "after line 0: damaged gzip" in refusal(read_rows, tmp_path / "a.txt.gz")


@pytest.mark.parametrize(("start", "end"), [(4, 60), (-20, None)], ids=["pages", "footer"])
def test_damaged_parquet_is_rejected(tmp_path: Path, start: int, end: int | None) -> None:
    """Without its footer, a table cannot be opened; damaged pages raise an error only while rows are read."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 50] * 100}), path, compression="zstd")
    content = path.read_bytes()
    path.write_bytes(content[:start] + (b"\xff" * 56 + content[end:] if end else b""))
    assert "damaged Parquet file" in refusal(read_rows, path)


MISSING = dict.fromkeys(("a.jsonl", "a.txt", "a.txt.gz", "a.parquet"), "no such file")
UNKNOWN = dict.fromkeys(("a.csv", "a", "a.gz", "a.parquet.gz", "a.jsonl.zst"), "unknown format")


@pytest.mark.parametrize(("name", "expected"), (MISSING | UNKNOWN).items())
def test_missing_file_or_unknown_format_is_named(tmp_path: Path, name: str, expected: str) -> None:
    """A mistyped path must raise an error early; a CSV file must not be read as text."""
    if name in UNKNOWN:
        (tmp_path / name).write_bytes(gzip.compress(b"a,b\n", mtime=0))
        expected += r".*\.jsonl, .*\.txt, .*\.parquet"
    assert re.search(expected, refusal(read_rows, tmp_path / name))


DOING = (
    "manja de pan amb de formatge|beu un veire d'aiga freja|trabalha dins lo camp cada jorn|"
    "vòl anar a la vila deman|legís un libre vièlh|canta una cançon polida|parla occitan amb sos amics|"
    "dormís jos un grand arbre|espèra lo tren dempuèi una ora|a perdut la clau de l'ostal|"
    "compra de fruta al mercat|escriu una letra a son paire|pòrta un capèl negre|ausís la pluèja sul teulat|"
    "coneis totes los camins de la montanha|vend de vin a la fièra|coita per arribar a l'ora|"
    "barra la pòrta e las fenèstras|met la taula per sopar|cerca sos solièrs dins la cambra"
)
OCCITAN = [
    f"{who} {what}."
    for who in ("Lo pescaire", "La filha", "Mon fraire", "Lo vesin", "La mèstra")
    for what in DOING.split("|")
]
HAWAIIAN = [
    f"He {what} {how} {where}."
    for what in ("pōpoki", "ʻīlio", "hale", "kumu", "manu")
    for how in ("nui", "liʻiliʻi", "maikaʻi", "ʻulaʻula", "keʻokeʻo", "hou", "kahiko", "nani", "ikaika", "ʻeleʻele")
    for where in ("kēia", "kēlā")
]
SAMPLE = {code: [row[code] for row in sample_rows("train")] for code in ("en", "de", "fr", "ru", "ja", "zh")}
SCRIPTS = ("am", "chr", "zgh", "ne", "ko")  # the identifier does not know Cherokee and Tifinagh
TEXTS = SAMPLE | {"oc": OCCITAN, "haw": HAWAIIAN}


def write(folder: Path, lines: Iterable[str]) -> Path:
    return write_rows(folder / "text.txt", [{"text": line} for line in lines])


def inspecting(code: str) -> Callable[[Path], Any]:
    return lambda path: inspect_text(path, get_language(code))


@pytest.mark.parametrize("code", TEXTS)
def test_text_of_the_language_is_taken(tmp_path: Path, code: str) -> None:
    """Good text must not be rejected: the identifier does not know Hawaiian, and some lines recur."""
    inspect_text(write(tmp_path, TEXTS[code]), get_language(code))
    inspect_text(write(tmp_path, TEXTS[code] + TEXTS[code][: 9 * len(TEXTS[code]) // 10]), get_language(code))


@pytest.mark.parametrize(("given", "named"), [*itertools.permutations(TEXTS, 2), *(("oc", code) for code in SCRIPTS)])
def test_text_of_another_language_is_rejected(tmp_path: Path, given: str, named: str) -> None:
    """Training on the wrong language would publish a drafter under the name of another."""
    expected = refusal(inspecting(named), write(tmp_path, TEXTS[given]))
    assert LANGUAGES[named].name in expected
    assert "name the actual language of the text" in expected


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_half_a_text_may_be_foreign(tmp_path: Path, share: float) -> None:
    """Quotations in another language are normal, but half of a text is not."""
    foreign = int(share * 200)
    path = write(tmp_path, SAMPLE["en"][:foreign] + SAMPLE["de"][: 200 - foreign])
    if share < 0.5:
        inspect_text(path, get_language("de"))
    else:
        message = refusal(inspecting("de"), path)
        assert "60% of its lines seem to be in another language than German, most often in English" in message


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (OCCITAN[:12], "12 different lines, but at least 100 are needed"),
        # Repeated lines count once; these are too few to be rejected for repetition.
        (OCCITAN[:99] + OCCITAN[:50], "99 different lines"),
        ([], "no text: write a sentence or a paragraph of Occitan per line"),
        (["", "", "  "], "no text: write a sentence or a paragraph of Occitan per line"),
        ([str(number) for number in range(200)], "seem to be in another language than Occitan"),
        (OCCITAN + OCCITAN[:1] * 100_000, "100,000 of 100,100 lines repeat an earlier line"),
    ],
)
def test_what_is_too_little_text_is_rejected(tmp_path: Path, lines: list[str], expected: str) -> None:
    """Twelve lines leave none for validation, and a drafter of one line is fast on that line only."""
    assert expected in refusal(inspecting("oc"), write(tmp_path, lines))
