"""Fertility: how many tokens a tokenizer makes of a text, which decides what a language costs at equal tokens/s.

Sources: Rust et al., "How Good is Your Tokenizer?" (arXiv 2012.15613), for tokens per word; Petrov et al., "Language
Model Tokenizers Introduce Unfairness Between Languages" (arXiv 2305.15425), for the ratio on parallel text.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.languages import Language, get_language


@dataclass(frozen=True)
class Fertility:
    """The number of tokens in which a tokenizer writes a text.

    Args:
        tokens (`int`): Of the tokenizer, without special ones.
        words (`int`, *optional*): Between white space; `None` in a language that writes without.
    """

    tokens: int
    characters: int
    utf8_bytes: int
    words: int | None

    @property
    def tokens_per_character(self) -> float:
        """Tokens / characters."""
        return self.tokens / self.characters

    @property
    def tokens_per_byte(self) -> float:
        """Tokens / bytes: 1 where a byte-level tokenizer knows nothing of a language but its bytes."""
        return self.tokens / self.utf8_bytes

    @property
    def tokens_per_word(self) -> float | None:
        """Tokens / words, or `None` in a language that writes without spaces."""
        return None if self.words is None else self.tokens / self.words

    def over(self, english: "Fertility") -> dict[str, float | None]:
        """Divide by English's fertility: above 1, the language takes more tokens.

        Args:
            english (`Fertility`): Of an English text with the same tokenizer.
        Returns:
            `dict` with `tokens_per_character`, `tokens_per_byte`, `tokens_per_word` (`None` without words), each a
            ratio of ratios, and `tokens`, the ratio of totals, which says something only if the two texts are
            translations of each other.
        """
        words = None if self.words is None else self.tokens_per_word / english.tokens_per_word
        return {
            "tokens_per_character": self.tokens_per_character / english.tokens_per_character,
            "tokens_per_byte": self.tokens_per_byte / english.tokens_per_byte,
            "tokens_per_word": words,
            "tokens": self.tokens / english.tokens,
        }


def count_fertility(texts: Iterable[str], language: Language, tokenizer: PreTrainedTokenizerBase) -> Fertility:
    """Count tokens, characters, bytes and words of texts, each tokenised alone.

    Args:
        texts (`Iterable[str]`): Sentences or paragraphs with some text in them all.
    """
    tokens = characters = utf8_bytes = words = 0
    for text in texts:
        tokens += len(tokenizer.encode(text, add_special_tokens=False))
        characters += len(text)
        utf8_bytes += len(text.encode())
        words += len(text.split())
    if not words:
        raise ValueError("fertility of no text: give at least one text with a character that is no white space")
    return Fertility(tokens, characters, utf8_bytes, words if language.spaced else None)


def describe_fertility(
    texts: Iterable[str], language: Language, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Say what a language costs with a tokenizer, and how many times what the bundled sample's English does.

    Returns:
        `dict` with `tokens_per_character`, `tokens_per_byte`, `tokens_per_word` (left out without words), and each
        again as `..._over_english`.
    """
    english = count_fertility((row["en"] for row in sample_rows("train")), get_language("en"), tokenizer)
    own = count_fertility(texts, language, tokenizer)
    said = {}
    for name, ratio in own.over(english).items():
        if name != "tokens" and ratio is not None:
            said |= {name: getattr(own, name), f"{name}_over_english": ratio}
    return said
