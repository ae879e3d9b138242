"""Fertility by hand-computed numbers."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from drafter_trainer.corpora.fertility import count_fertility, describe_fertility
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.languages import get_language

SAMPLE = [*sample_rows("train")]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Make one token of each character that is no white space, and a start token that must not be counted."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "<s>": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="?")


@pytest.mark.parametrize(
    ("code", "texts", "expected"),
    [("am", ["ሰላም ነው", "አዎ"], (7 / 8, 7 / 22, 7 / 3)), ("zh", ["你好。", "再见"], (1, 5 / 15, None))],
)
def test_every_unit_is_counted(tokenizer, code, texts, expected) -> None:
    """Bytes taken for characters make Amharic look cheap; a Chinese sentence is no word of twenty tokens."""
    language = get_language(code)
    names = ("tokens_per_character", "tokens_per_byte", "tokens_per_word")
    counted = count_fertility(texts, language, tokenizer)
    assert counted == {name: figure and pytest.approx(figure) for name, figure in zip(names, expected)}
    said, english = (describe_fertility(each, language, tokenizer) for each in (texts, [row["en"] for row in SAMPLE]))
    for name in (name for name, figure in zip(names, expected) if figure is not None):
        assert said[name] == counted[name]
        assert said[f"{name}_over_english"] == pytest.approx(said[name] / english[name])
        assert english[f"{name}_over_english"] == pytest.approx(1)
    assert len(said) == 2 * sum(figure is not None for figure in expected)


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_has_no_fertility(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    """A language without text must not be given a number."""
    with pytest.raises(ValueError, match="fertility of no text"):
        count_fertility(texts, get_language("oc"), tokenizer)
