"""What the engines ask for: the pair that each would refuse is refused before."""

import pytest
from transformers import LlamaConfig

from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.constraints import check_sizes, check_vllm, context_limit

TARGET = LlamaConfig(vocab_size=400, max_position_embeddings=512)


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
