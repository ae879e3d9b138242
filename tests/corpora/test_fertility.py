"""Fertility by hand-computed numbers."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from drafter_trainer.corpora.fertility import Fertility, count_fertility
from drafter_trainer.languages import get_language


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Make one token of each character that is no white space, and a start token that must not be counted."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "<s>": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="?")


def test_every_unit_is_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """Bytes taken for characters would make Amharic look three times as cheap as it is."""
    amharic = count_fertility(["ሰላም ነው", "አዎ"], get_language("am"), tokenizer)
    assert amharic == Fertility(tokens=7, characters=8, utf8_bytes=22, words=3)
    assert amharic.tokens_per_character == pytest.approx(7 / 8)
    assert amharic.tokens_per_byte == pytest.approx(7 / 22)
    assert amharic.tokens_per_word == pytest.approx(7 / 3)


def test_languages_without_spaces_have_no_words(tokenizer: PreTrainedTokenizerFast) -> None:
    """A Chinese sentence is no word of twenty tokens."""
    chinese = count_fertility(["你好。", "再见"], get_language("zh"), tokenizer)
    assert chinese == Fertility(tokens=5, characters=5, utf8_bytes=15, words=None)
    assert chinese.tokens_per_word is None
    english = Fertility(tokens=2, characters=10, utf8_bytes=10, words=2)
    assert chinese.over(english) == {
        "tokens_per_character": pytest.approx(5.0),
        "tokens_per_byte": pytest.approx((5 / 15) / (2 / 10)),
        "tokens_per_word": None,
        "tokens": pytest.approx(2.5),
    }


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_has_no_fertility(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    """A language without text must not be given a number."""
    with pytest.raises(ValueError, match="fertility of no text"):
        count_fertility(texts, get_language("oc"), tokenizer)
