"""Pairs and prompts."""

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.languages import LANGUAGES, get_language, get_pair, read_translation_prompt, translation_prompt


def test_pair_is_read_in_its_direction() -> None:
    """A swapped pair would train a drafter for the other direction."""
    pair = get_pair("de-en")
    assert (pair.source.name, pair.target.name, str(pair)) == ("German", "English", "de-en")


@pytest.mark.parametrize("text", ["", "de", "de-en-fr", "de-", "xx-en", "de-de", "de_en"])
def test_pair_that_is_none_is_refused(text: str) -> None:
    """An unknown pair must end in a clear line, not in a prompt with a wrong language."""
    with pytest.raises(InputError, match=r"unknown|same language"):
        get_pair(text)


def test_aliases_name_one_language() -> None:
    """Data sets write deu where configs write de."""
    assert get_language("deu") is get_language("de")
    codes = [code for language in LANGUAGES.values() for code in (language.code, *language.aliases)]
    assert len(codes) == len(set(codes))


def test_prompt_is_the_same_however_it_was_written() -> None:
    """The paper's questions have no space after the colon, its training prompts have one."""
    pair = get_pair("de-en")
    prompt = translation_prompt(pair, " Guten Tag. ")
    assert prompt == "Translate German to English: Guten Tag."
    for written in (prompt, "Translate German to English:Guten Tag."):
        assert read_translation_prompt(written) == ("German", "English", "Guten Tag.")
    assert read_translation_prompt("Write a story.") is None


def test_every_probe_is_in_its_own_language() -> None:
    """Probes compare tokenizers where languages differ; a repeated one would compare nothing."""
    assert len({language.probe for language in LANGUAGES.values()}) == len(LANGUAGES)
