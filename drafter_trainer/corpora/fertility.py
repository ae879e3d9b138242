"""Fertility: how many tokens a tokenizer makes of a text, which decides what a language costs at equal tokens/s.

Sources: Rust et al., "How Good is Your Tokenizer?" (arXiv 2012.15613), for tokens per word; Petrov et al., "Language
Model Tokenizers Introduce Unfairness Between Languages" (arXiv 2305.15425), for the ratio on parallel text.
"""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.languages import Language, get_language


def count_fertility(
    texts: Iterable[str], language: Language, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float | None]:
    """Count the tokens of texts, each tokenized alone and without special tokens.

    Returns:
        `dict` with `tokens_per_character`, `tokens_per_byte` (1 where a byte-level tokenizer knows nothing of a
        language but its bytes), and `tokens_per_word`, words being between white space; `None` in a language that
        writes without.
    """
    tokens = characters = utf8_bytes = words = 0
    for text in texts:
        tokens += len(tokenizer.encode(text, add_special_tokens=False))
        characters += len(text)
        utf8_bytes += len(text.encode())
        words += len(text.split())
    if not words:
        raise ValueError("fertility of no text: give at least one text with a character that is no white space")
    return {
        "tokens_per_character": tokens / characters,
        "tokens_per_byte": tokens / utf8_bytes,
        "tokens_per_word": tokens / words if language.spaced else None,
    }


def describe_fertility(
    texts: Iterable[str], language: Language, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Say what a language costs with a tokenizer, and how many times what the bundled sample's English does.

    Returns:
        `dict` with the figures of `count_fertility` (words left out where there are none), and each again as
        `..._over_english`.
    """
    english = count_fertility((row["en"] for row in sample_rows("train")), get_language("en"), tokenizer)
    said = {}
    for name, figure in count_fertility(texts, language, tokenizer).items():
        if figure is not None:
            said |= {name: figure, f"{name}_over_english": figure / english[name]}
    return said
