"""What each engine asks of a target and its drafter, checked before a server is started in vain.

All of them feed the drafter the target's token ids, so both need one vocabulary; they differ in how they find out, and
in what else they ask for.
"""

from transformers import PreTrainedConfig

from drafter_trainer.errors import InputError

# vLLM takes another method than the one that is named where the model's path has one of these in it.
_READ_BY_VLLM = ("eagle-", "eagle3", "dflash", "dspark")


def check_sizes(engine: str, target: PreTrainedConfig, draft: PreTrainedConfig) -> None:
    """Check what vLLM's method `draft_model` and SGLang's STANDALONE ask for: vocabularies of one size.

    Source: `SpeculativeConfig` in vllm/config/speculative.py of vLLM; standalone_worker.py and model_config.py in
        python/sglang/srt of SGLang; read at their main branches of 2026
    """
    sizes = target.get_text_config().vocab_size, draft.vocab_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{engine} needs vocabularies of one size: the target's has {sizes[0]}, the drafter's {sizes[1]}: train a "
            f"drafter for this target, or leave {engine.lower()} out of the engines"
        )


def check_vllm(location: str, target: PreTrainedConfig, draft: PreTrainedConfig) -> None:
    """Check that vLLM would not refuse the pair, nor take the drafter's Hub id or folder for another kind's."""
    check_sizes("vLLM", target, draft)
    if named := [word for word in _READ_BY_VLLM if word in location.lower()]:
        raise InputError(
            f"vLLM takes {location} for another kind of drafter, since its path has {named[0]!r} in it: rename it"
        )


def context_limit(target: PreTrainedConfig, draft: PreTrainedConfig) -> int | None:
    """Return the context length to give to SGLang where the drafter's is shorter than the target's, else `None`.

    SGLang gives the drafter the context of the target, and refuses one that is longer than the drafter's own.
    """
    own, needed = draft.max_position_embeddings, target.get_text_config().max_position_embeddings
    return own if own < needed else None
