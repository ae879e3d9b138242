"""Texts that must be rejected before hours of training, and those that must not."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from drafter_trainer.corpora.inspection import inspect_text
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.languages import LANGUAGES, get_language
from tests.corpora.test_files import refusal as refused

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


def write(folder: Path, lines: Iterable[str], name: str = "text.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def refusal(path: Path, code: str) -> str:
    return refused(lambda place: inspect_text(place, get_language(code)), path)


@pytest.mark.parametrize("code", TEXTS)
def test_text_of_the_language_is_taken(tmp_path: Path, code: str) -> None:
    """Good text must not be rejected: the identifier does not know Hawaiian, and some lines recur."""
    inspect_text(write(tmp_path, TEXTS[code]), get_language(code))
    inspect_text(write(tmp_path, TEXTS[code] + TEXTS[code][: 9 * len(TEXTS[code]) // 10]), get_language(code))


@pytest.mark.parametrize(("given", "named"), [*itertools.permutations(TEXTS, 2), *(("oc", code) for code in SCRIPTS)])
def test_text_of_another_language_is_rejected(tmp_path: Path, given: str, named: str) -> None:
    """Training on the wrong language would publish a drafter under the name of another."""
    expected = refusal(write(tmp_path, TEXTS[given]), named)
    assert LANGUAGES[named].name in expected
    assert "name the language that the text is in" in expected


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_half_a_text_may_be_foreign(tmp_path: Path, share: float) -> None:
    """Quotations in another language are normal, but half of a text is not."""
    foreign = int(share * 200)
    path = write(tmp_path, SAMPLE["en"][:foreign] + SAMPLE["de"][: 200 - foreign])
    if share < 0.5:
        inspect_text(path, get_language("de"))
    else:
        assert "60% of its lines seem to be in another language than German, most often in English" in refusal(
            path, "de"
        )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (OCCITAN[:12], "12 different lines, at least 100 are needed"),
        # Repeated lines count once; these are too few to be rejected for repetition.
        (OCCITAN[:99] + OCCITAN[:50], "99 different lines"),
        ([], "no text: write a sentence or a paragraph of Occitan per line"),
        (["", "", "  "], "no text: write a sentence or a paragraph of Occitan per line"),
        ([str(number) for number in range(200)], "seem to be in another language than Occitan"),
        (OCCITAN + OCCITAN[:1] * 100_000, "100,000 of 100,100 lines repeat an earlier one"),
    ],
)
def test_what_is_too_little_text_is_rejected(tmp_path: Path, lines: list[str], expected: str) -> None:
    """Twelve lines leave none for validation, and a drafter of one line is fast on that line only."""
    assert expected in refusal(write(tmp_path, lines), "oc")
