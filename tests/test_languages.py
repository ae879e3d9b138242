"""Pairs and prompts."""

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.languages import (
    Pair,
    get_language,
    get_pair,
    read_language_or_pair,
    read_languages,
    read_translation_prompt,
    story_prompt,
    translation_prompt,
)


@pytest.mark.parametrize(
    ("tag", "code", "name"),
    [
        ("hi", "hi", "Hindi"),
        ("ara", "ar", "Arabic"),
        ("dut", "nl", "Dutch"),
        ("pt-br", "pt-BR", "Portuguese (Brazil)"),
        ("zho-Hant", "zh-Hant", "Chinese (Traditional)"),
        ("nob", "nb", "Norwegian Bokmål"),
        ("ckb", "ckb", "Central Kurdish"),
    ],
)
def test_any_language_is_known_by_its_tag(tag: str, code: str, name: str) -> None:
    """A language that the table does not list must make a pair, a prompt that is read again, and probes."""
    language = get_language(tag)
    assert (language.code, language.name) == (code, name)
    pair = get_pair(f"en-{code}")
    assert (str(pair), pair.target) == (f"en-{code}", language)
    assert str(get_pair(f"{code}-en")) == f"{code}-en"
    assert read_translation_prompt(translation_prompt(pair, "7:45")) == ("English", name, "7:45")
    assert all(pair.probes)
    assert language.spaced == (code != "zh-Hant")


def test_mistyped_language_is_refused_with_advice() -> None:
    """Whoever writes a name in place of a tag must be told the tag."""
    with pytest.raises(InputError, match="did you mean de"):
        get_language("German")
    with pytest.raises(InputError, match="give an ISO 639 code"):
        get_language("zz")


def test_a_drafter_has_one_language_or_several_or_a_pair() -> None:
    """`de-de` is German chat, not a translation, and not the German of Germany."""
    de, en, fr = map(get_language, ("de", "en", "fr"))
    assert read_languages(None) == ((), None)
    assert read_languages("de") == read_languages("de-de") == ((de,), None)
    assert read_languages(["de", "fra"]) == ((de, fr), None)
    assert read_languages("de-en") == ((de, en), Pair(de, en))
    assert read_languages("de-AT")[0][0].code == "de-AT"


def test_prompt_is_the_same_however_it_was_written() -> None:
    """The paper's questions have no space after the colon, its training prompts have one."""
    pair = get_pair("de-en")
    prompt = translation_prompt(pair, " Guten Tag. ")
    assert prompt == "Translate German to English: Guten Tag."
    for written in (prompt, "Translate German to English:Guten Tag."):
        assert read_translation_prompt(written) == ("German", "English", "Guten Tag.")
    assert read_translation_prompt("Write a story.") is None


def test_story_is_asked_in_its_language_where_the_project_can() -> None:
    """No user writes a prompt half in one language; without a language in it the answer is English."""
    subject = {"en": "a fox", "ja": "狐"}
    assert story_prompt(get_language("en"), subject) == "Write a short story about a fox."
    assert story_prompt(get_language("ko"), subject) == "Write a short story in Korean about a fox."
    assert story_prompt(get_language("ja"), subject) == "狐についての短い物語を日本語で書いてください。"
    assert story_prompt(get_language("de"), subject) == "Write a short story in German about a fox."


@pytest.mark.parametrize(
    ("text", "pair"),
    [("oci", "en-oc"), ("en-oci", "en-oc"), ("npi-en", "ne-en"), ("haw", "en-haw"), ("de-en", "de-en")],
)
def test_one_language_is_the_pair_from_english(text: str, pair: str) -> None:
    """Speakers of a language name it by any of its codes; the drafter of another direction must not come of it."""
    assert str(read_language_or_pair(text)) == pair


def test_text_that_is_no_language_or_pair_is_refused() -> None:
    """An unknown pair, or a shell's own LANG, would become a prompt with a wrong language."""
    for text in ("", "de", "de-en-fr", "de-", "xx-en", "de_en"):
        with pytest.raises(InputError, match="unknown"):
            get_pair(text)
    for text in ("en", "eng", "", "xx", "en_US.UTF-8", "C"):
        with pytest.raises(InputError, match=r"unknown|also the language"):
            read_language_or_pair(text)
