"""What each engine asks of a target and its drafter, checked before a server is started in vain.

All of them feed the drafter the target's token ids, so both need one vocabulary; they differ in how they find out, and
in what else they ask for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from drafter_trainer.errors import InputError

# vLLM takes another method than the one that is named where the model's path has one of these in it.
_READ_BY_VLLM = ("eagle-", "eagle3", "dflash", "dspark")
# common/speculative.cpp of llama.cpp: SPEC_VOCAB_MAX_SIZE_DIFFERENCE and SPEC_VOCAB_CHECK_START_TOKEN_ID
_SIZE_TOLERANCE = 128
_FIRST_COMPARED = 5


@dataclass(frozen=True)
class GgufVocabulary:
    """The vocabulary properties that llama.cpp compares between two GGUF files.

    Args:
        kind (`str`): `tokenizer.ggml.model`, such as "gpt2" for byte-level BPE.
        special (`dict[str, Any]`): `bos_token_id`, `eos_token_id`, `add_bos_token` and `add_eos_token`, as far as the
            file states them.
    """

    kind: str
    tokens: list[str]
    special: dict[str, Any]


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


def check_weights(folder: Path) -> None:
    """Refuse a repository of which vLLM and SGLang would load files that are no weights of the network.

    They load every `*.safetensors` at its root that no index rules out; repositories have one since tables and draft
    vocabularies made vLLM fail ("There is no module or parameter named 'ids'").
    """
    others = [path.name for path in folder.glob("*.safetensors") if not path.name.startswith("model")]
    if others and not (folder / "model.safetensors.index.json").is_file():
        raise InputError(
            f"{folder} has {min(others)} beside its weights and no model.safetensors.index.json: vLLM and SGLang "
            "would take it for weights. Publish the drafter again with this release"
        )


def context_limit(target: PreTrainedConfig, draft: PreTrainedConfig) -> int | None:
    """Return the context length to give to SGLang where the drafter's is shorter than the target's, else `None`.

    SGLang gives the drafter the context of the target, and refuses one that is longer than the drafter's own.
    """
    own, needed = draft.max_position_embeddings, target.get_text_config().max_position_embeddings
    return own if own < needed else None


def check_llamacpp(target: GgufVocabulary, draft: GgufVocabulary) -> None:
    """Check what llama.cpp asks for before it drafts: one kind of vocabulary, with the same texts and special tokens.

    Sizes may differ by 128, texts are compared from id 5 on. A flag that one of the files leaves to llama.cpp is not
    compared.

    Raises:
        InputError: If llama.cpp would answer without the drafter; the message shows the first difference.
    Source: `common_speculative_are_compatible` in common/speculative.cpp of llama.cpp
    """
    advice = "export with the GGUF of the target that this drafter was trained for"
    if target.kind != draft.kind:
        raise InputError(f"llama.cpp: the target's vocabulary is {target.kind}, the drafter's {draft.kind}: {advice}")
    for name in target.special.keys() & draft.special.keys():
        if target.special[name] != draft.special[name]:
            raise InputError(
                f"llama.cpp: {name} is {target.special[name]} in the target's file and {draft.special[name]} in the "
                f"drafter's: {advice}"
            )
    sizes = len(target.tokens), len(draft.tokens)
    if abs(sizes[0] - sizes[1]) > _SIZE_TOLERANCE:
        raise InputError(
            f"llama.cpp: the target's file has {sizes[0]} tokens, the drafter's {sizes[1]}, more than "
            f"{_SIZE_TOLERANCE} apart: {advice}"
        )
    for token in range(_FIRST_COMPARED, min(sizes)):
        texts = target.tokens[token], draft.tokens[token]
        if texts[0] != texts[1]:
            raise InputError(
                f"llama.cpp: token {token} is {texts[0]!r} in the target's file and {texts[1]!r} in the drafter's: "
                f"{advice}"
            )
