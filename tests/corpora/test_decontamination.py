"""Overlap with evaluation questions: where it begins, and that the sample has none."""

import unicodedata

import pytest

from drafter_trainer.corpora.decontamination import Decontaminator, normalise, units
from drafter_trainer.corpora.questions import keep_out, load_questions
from drafter_trainer.corpora.sample import LANGUAGES, sample_rows
from drafter_trainer.languages import get_pair

COUNTED = "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn"
WORDS = COUNTED.split()
JAPANESE = "明日は午前七時に駅のカフェで会いましょう"  # 20 characters


def english_or_german(language: str) -> str:
    """Pair a language with another one, so that it is the source."""
    return f"{language}-{'de' if language == 'en' else 'en'}"


def spaced(*questions: str) -> Decontaminator:
    """Keep out questions in a language that sets words apart."""
    return Decontaminator((question, True) for question in questions)


def test_thirteen_words_in_a_row_are_overlap() -> None:
    """A part of a question inside a longer text gives its answer away."""
    decontaminator = spaced(COUNTED)
    assert decontaminator.reason("Vorher stand " + " ".join(WORDS[1:14]) + " und nachher") == "overlap"
    assert decontaminator.reason(" ".join(WORDS[:13])) == "overlap"
    assert decontaminator.reason(COUNTED) == "overlap"


def test_twelve_words_in_a_row_are_none() -> None:
    """Common phrases must not empty the training data."""
    decontaminator = spaced(COUNTED)
    assert decontaminator.reason("Vorher stand " + " ".join(WORDS[1:13]) + " und nachher") is None
    assert decontaminator.reason(" ".join([*WORDS[:12], "anders", *WORDS[13:]])) is None


def test_words_out_of_order_are_none() -> None:
    """A bag of the same words is another sentence."""
    assert spaced(COUNTED).reason(" ".join(reversed(WORDS))) is None


def test_question_of_exactly_thirteen_words_is_found_inside_a_text() -> None:
    """At the limit a question has one run, and must not fall between the two rules."""
    assert spaced(" ".join(WORDS[:13])).reason("Er zählte: " + ", ".join(WORDS)) == "overlap"


def test_overlap_is_found_across_lines_case_and_punctuation() -> None:
    """Web text breaks and quotes sentences; the copy is still the question."""
    text = "»" + ",\n".join(word.upper() for word in WORDS) + "!«"
    assert spaced(COUNTED).reason(text) == "overlap"


def test_characters_count_where_words_are_not_set_apart() -> None:
    """A Japanese sentence is one word by its spaces: no overlap would ever be found."""
    decontaminator = Decontaminator([(JAPANESE, False)])
    assert decontaminator.reason(f"「{JAPANESE[3:16]}」と言った。") == "overlap"
    assert decontaminator.reason(f"「{JAPANESE[3:15]}」と言った。") is None


def test_spaces_and_width_do_not_hide_characters() -> None:
    """Full-width digits and spaces between characters are typography."""
    question = "会議は2025年10月3日の15時に始まります"
    wide = "会議は２０２５年 １０月３日の １５時に始まります。"
    assert Decontaminator([(question, False)]).reason(f"なお、{wide}") == "overlap"


@pytest.mark.parametrize(
    "copy", ["guten MORGEN", "„Guten Morgen!“", "Ｇｕｔｅｎ　Ｍｏｒｇｅｎ．", "  Guten   Morgen ", "Guten-Morgen"]
)
def test_short_question_is_matched_after_normalisation(copy: str) -> None:
    """A question of fewer than 13 words has no run; a copy with another full stop must be found all the same."""
    assert spaced("Guten Morgen.").reason(copy) == "exact match"


@pytest.mark.parametrize("text", ["Guten Morgen, Herr Nachbar!", "Er sagte guten Morgen.", "Guten", "Morgen, guten"])
def test_short_question_inside_a_sentence_is_none(text: str) -> None:
    """Two common words must not drop every sentence that has them."""
    assert spaced("Guten Morgen.").reason(text) is None


def test_short_question_is_found_as_a_line_of_a_document() -> None:
    """A test set pasted into a page, a sentence a line, is the commonest leak."""
    assert spaced("Guten Morgen.").reason("Seite 1\nGuten Morgen\nSeite 2") == "exact match"
    assert Decontaminator([("お早う。", False)]).reason("挨拶\r\nお早う\r\n") == "exact match"


def test_question_of_punctuation_drops_nothing() -> None:
    """Nothing is left of it: as an exact match it would drop every empty line's document."""
    decontaminator = spaced("…!", "")
    assert decontaminator.reason("Eins.\n\n---\nZwei.") is None
    assert decontaminator.reason("") is None


def test_languages_with_and_without_spaces_stand_side_by_side() -> None:
    """Several question sets may be kept out at once; each is counted in its own units."""
    decontaminator = Decontaminator([(COUNTED, True), (JAPANESE, False)])
    assert decontaminator.reason(" ".join(WORDS[:13])) == "overlap"
    assert decontaminator.reason(JAPANESE[:13]) == "overlap"
    assert decontaminator.reason("Ein anderer Satz, ganz ohne Überschneidung mit den beiden Fragen von oben.") is None


def test_normalisation_keeps_words_apart() -> None:
    """Words that run together, or marks that stay, would change every count."""
    assert normalise(" Straße_Nr.１２ – Ｃａｆé!\n") == "strasse nr 12 café"
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
    """Words split at vowel signs and tones are twice as many, and others than those alone that differ in them."""
    assert normalise(text) == unicodedata.normalize("NFKC", words)
    assert len(units(normalise("भोलि बिहान सात बजे हामी काठमाडौं जान्छौं"), True)) == 7
    assert units(normalise("दिन พี่"), False) == ("दि", "न", "พี่")
    assert spaced("राम्रो दिन").reason("रामरा दनी") is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_sample_has_no_question_in_training(language: str) -> None:
    """The quickstart trains on the sample and is measured on it: an overlap would flatter the drafter."""
    decontaminator = keep_out(["sample"], get_pair(english_or_german(language)))
    for split in ("train", "validation"):
        dropped = {row["id"]: decontaminator.reason(row[language]) for row in sample_rows(split)}
        assert {name: reason for name, reason in dropped.items() if reason} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_question_of_the_sample_is_caught(language: str) -> None:
    """A language whose questions slip through would be measured on its own training data."""
    pair = get_pair(english_or_german(language))
    decontaminator = keep_out(["sample"], pair)
    questions = load_questions("sample", pair)
    assert len(questions) >= 30
    assert [question.text for question in questions if decontaminator.reason(question.text) is None] == []
