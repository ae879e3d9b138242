"""What the engines ask for: the pair that each would refuse is refused before."""

import dataclasses

import pytest
from transformers import LlamaConfig

from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.constraints import (
    GgufVocabulary,
    check_llamacpp,
    check_sizes,
    check_vllm,
    context_limit,
)

TARGET = LlamaConfig(vocab_size=400, max_position_embeddings=512)
VOCABULARY = GgufVocabulary(
    "gpt2",
    [f"token {number}" for number in range(300)],
    {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": False},
)


def changed(size: int = 300, tokens: dict[int, str] | None = None, **special: int | bool) -> GgufVocabulary:
    """The vocabulary with another size, other texts or other special tokens."""
    texts = [(tokens or {}).get(number, f"token {number}") for number in range(size)]
    return dataclasses.replace(VOCABULARY, tokens=texts, special=VOCABULARY.special | special)


@pytest.mark.parametrize("size", [399, 401])
def test_vocabularies_of_two_sizes_are_refused(size: int) -> None:
    """vLLM ends with an error after minutes of loading, SGLang with tokens that the target does not have."""
    draft = LlamaConfig(vocab_size=size)
    for engine, check in (
        ("vLLM", lambda: check_vllm("org/x", TARGET, draft)),
        ("SGLang", lambda: check_sizes("SGLang", TARGET, draft)),
    ):
        with pytest.raises(InputError, match=f"{engine} needs .* target's has 400, the drafter's {size}"):
            check()
    check_vllm("org/x", TARGET, TARGET)
    check_sizes("SGLang", TARGET, TARGET)


@pytest.mark.parametrize("location", ["org/Eagle-drafter", "/home/dflash/drafter", "org/x-eagle3"])
def test_path_that_vllm_reads_a_method_off_is_refused(location: str) -> None:
    """vLLM would load a drafter of such a name as a head that needs the target's hidden states."""
    with pytest.raises(InputError, match=r"has '(eagle-|dflash|eagle3)' in it: rename it"):
        check_vllm(location, TARGET, TARGET)


def test_context_is_cut_to_the_drafters() -> None:
    """SGLang gives the drafter the target's context, and does not start where the drafter's is shorter."""
    short = LlamaConfig(vocab_size=400, max_position_embeddings=128)
    assert context_limit(TARGET, short) == 128
    assert context_limit(short, TARGET) is None
    assert context_limit(TARGET, TARGET) is None


@pytest.mark.parametrize(
    "draft",
    [
        VOCABULARY,
        changed(size=172),
        changed(size=428),
        changed(tokens={0: "other", 4: "other"}),
        changed(add_eos_token=True),  # the target's file does not say
    ],
)
def test_what_llamacpp_lets_pass(draft: GgufVocabulary) -> None:
    """A check that is stricter than the engine turns working pairs away."""
    check_llamacpp(VOCABULARY, draft)


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (dataclasses.replace(VOCABULARY, kind="llama"), "vocabulary is gpt2, the drafter's llama"),
        (changed(size=171), "has 300 tokens, the drafter's 171, more than 128 apart"),
        (changed(size=429), "has 300 tokens, the drafter's 429"),
        (changed(tokens={5: "other"}), "token 5 is 'token 5' in the target's file and 'other'"),
        (changed(tokens={299: "other"}), "token 299"),
        (changed(bos_token_id=0), "bos_token_id is 1 in the target's file and 0"),
        (changed(eos_token_id=0), "eos_token_id"),
        (changed(add_bos_token=True), "add_bos_token is False in the target's file and True"),
    ],
)
def test_what_llamacpp_refuses_is_said(draft: GgufVocabulary, said: str) -> None:
    """llama.cpp says so in its log alone, and answers at the target's own speed."""
    with pytest.raises(InputError, match=said):
        check_llamacpp(VOCABULARY, draft)
