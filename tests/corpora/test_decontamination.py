"""Overlap with evaluation questions: its threshold, and that the sample has none."""

import unicodedata

import pytest

from drafter_trainer.corpora.decontamination import Decontaminator, normalize, units
from drafter_trainer.corpora.questions import load_decontaminator, load_questions
from drafter_trainer.corpora.sample import LANGUAGES, sample_rows
from drafter_trainer.languages import get_pair

COUNTED = "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn"
WORDS = COUNTED.split()
OCTOBER = "会議は2025年10月3日の15時に始まります"
JAPANESE = "明日は午前七時に駅のカフェで会いましょう"  # 20 characters


THIRTEEN, TWELVE = " ".join(WORDS[1:14]), " ".join(WORDS[1:13])
OVERLAPS = {
    "thirteen words inside a text": ([COUNTED], f"Vorher stand {THIRTEEN} und nachher"),
    "thirteen words alone": ([COUNTED], THIRTEEN),
    "the question": ([COUNTED], COUNTED),
    "a question of thirteen words inside a text": ([THIRTEEN], "Er zählte: " + ", ".join(WORDS)),
    "across lines, case and punctuation": ([COUNTED], "»" + ",\n".join(word.upper() for word in WORDS) + "!«"),
    "characters where words are not set apart": ([JAPANESE], f"「{JAPANESE[3:16]}」と言った。"),
    "spaces and width": ([OCTOBER], "なお、会議は２０２５年 １０月３日の １５時に始まります。"),
    "words beside characters": ([COUNTED, JAPANESE], THIRTEEN),
    "characters beside words": ([COUNTED, JAPANESE], JAPANESE[:13]),
}
# A question of fewer than 13 words has no run; a copy with another full stop must be found all the same.
EXACT_MATCHES = {
    text: (["Guten Morgen."], text)
    for text in ("guten MORGEN", "„Guten Morgen!“", "Ｇｕｔｅｎ　Ｍｏｒｇｅｎ．", "  Guten   Morgen ", "Guten-Morgen")
} | {
    # A test set pasted into a page, a sentence a line, is the commonest leak.
    "a line of a document": (["Guten Morgen."], "Seite 1\nGuten Morgen\nSeite 2"),
    "a line without spaces": (["お早う。"], "挨拶\r\nお早う\r\n"),
}
NONE = {
    "twelve words": ([COUNTED], f"Vorher stand {TWELVE} und nachher"),
    "one word in between": ([COUNTED], " ".join([*WORDS[:12], "anders", *WORDS[13:]])),
    "words out of order": ([COUNTED], " ".join(reversed(WORDS))),
    "twelve characters": ([JAPANESE], f"「{JAPANESE[3:15]}」と言った。"),
    "punctuation alone": (["…!", ""], "Eins.\n\n---\nZwei."),
    "nothing": (["…!", ""], ""),
    "another sentence": ([COUNTED, JAPANESE], "Ein anderer Satz, ganz ohne Überschneidung mit den beiden von oben."),
} | {
    text: (["Guten Morgen."], text)
    for text in ("Guten Morgen, Herr Nachbar!", "Er sagte guten Morgen.", "Guten", "Morgen, guten")
}
REASONS = [
    pytest.param(*case, reason, id=name)
    for reason, cases in (("overlap", OVERLAPS), ("exact match", EXACT_MATCHES), (None, NONE))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("questions", "text", "reason"), REASONS)
def test_overlap_is_told_from_common_words(questions: list[str], text: str, reason: str | None) -> None:
    """Parts of questions must be found, and common phrases must not be dropped."""
    assert Decontaminator((question, question[0:1] < "\u3000") for question in questions).reason(text) == reason


def test_normalisation_keeps_words_apart() -> None:
    """Joined words or remaining marks would change every count."""
    assert normalize(" Straße_Nr.１２ – Ｃａｆé!\n") == "strasse nr 12 café"
    assert units("ab cd", True) == ("ab", "cd")
    assert units("ab cd", False) == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hindi: किताब!", "hindi किताब"),
        ("राम्रो दिन", "राम्रो दिन"),
        ("Ọ\u0301mọ̀ náà", "ọ\u0301mọ\u0300 náà"),
        ("mitã, ha’ekuéra g\u0303uahẽ", "mitã ha ekuéra g\u0303uahẽ"),
        ("क्\u200dषेत्र, می\u200cخواهم", "क्षेत्र میخواهم"),
        ("kwa\u00adheri ❤\ufe0f", "kwaheri"),
    ],
)
def test_marks_and_joiners_belong_to_their_letters(text: str, words: str) -> None:
    """Words must not be split at vowel signs and tones, nor lose them."""
    assert normalize(text) == unicodedata.normalize("NFKC", words)
    assert len(units(normalize("भोलि बिहान सात बजे हामी काठमाडौं जान्छौं"), True)) == 7
    assert units(normalize("दिन พี่"), False) == ("दि", "न", "พี่")
    assert Decontaminator([("राम्रो दिन", True)]).reason("रामरा दनी") is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_sample_has_no_question_in_training(language: str) -> None:
    """The quickstart trains on the sample and is measured on it: an overlap would flatter the drafter."""
    pair = get_pair(f"{language}-{'de' if language == 'en' else 'en'}")
    decontaminator = load_decontaminator(["sample"], pair)
    for split in ("train", "validation"):
        dropped = {row["id"]: decontaminator.reason(row[language]) for row in sample_rows(split)}
        assert {name: reason for name, reason in dropped.items() if reason} == {}
    questions = load_questions("sample", pair)
    assert len(questions) >= 30
    assert [question.text for question in questions if decontaminator.reason(question.text) is None] == []
