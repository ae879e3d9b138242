"""How each engine is told to draft: settings by the names of its options, and the words that start it."""

import json
from pathlib import Path

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.serving.client import LLAMACPP
from drafter_trainer.serving.vllm import PROPOSER

WHOLE, NETWORK = PARTS = ("whole", "network")
LLAMA_SERVER = "llama-server"
DRAFTER_GGUF = "drafter.gguf"  # in the folder of an export for llama.cpp
# A suffix of two tokens is looked up, or a longer one: shorter ones are rarely followed by the same again.
_SHORTEST_SUFFIX, _LONGEST_SUFFIX = 2, 4
_LONGEST_WHOLE, _LONGEST_NETWORK = 12, 8
_STEP_SHARE = 0.1  # of a verification pass: one step of the network with what an engine does around it
_UNKNOWN_ALPHA = 0.55


def choose_draft_length(description: DrafterDescription, part: str) -> int:
    """Choose how many tokens an engine drafts in one round at most.

    The stock loop's length in `drafter.json` is that of transformers on the machine that tuned it, often 1. The whole
    drafter drafts less where less pays, and is given the length that tuning found for its loop, 12 at most. The
    network alone drafts the length n that maximizes (1 - α^(n+1)) / ((1 - α)(1 + n c)) for the expected α of its
    finetuning and steps that take a tenth of a verification pass.

    Args:
        part (`str`): "whole" or "network", see `vllm_config`.
    Source: Leviathan et al., arXiv 2211.17192, theorem 3.8
    """
    if part == WHOLE:
        return min(int(description.loop.get("longest_draft", _LONGEST_WHOLE)), _LONGEST_WHOLE)
    finetuned = description.training.get("finetune", {})
    alpha = min(max(float(finetuned.get("eval_expected_alpha", _UNKNOWN_ALPHA)), 0.0), 0.99)
    return max(
        range(1, _LONGEST_NETWORK + 1),
        key=lambda tokens: (1 - alpha ** (tokens + 1)) / ((1 - alpha) * (1 + tokens * _STEP_SHARE)),
    )


def vllm_config(
    drafter: str,
    draft_length: int,
    revision: str | None = None,
    part: str = WHOLE,
    mixed: bool = False,
) -> dict[str, object]:
    """Return vLLM's settings for a drafter, by the names of its options.

    Args:
        part (`str`, *optional*, defaults to `"whole"`): "whole" drafts with lookup, table and network, through
            `serving.vllm.DrafterProposer`; "network" with the network alone, as vLLM's own `draft_model`.
        mixed (`bool`, *optional*, defaults to `False`): Whether the network `mixes_attention`: vLLM asks that all
            layers of a `draft_model` lie in one group of its cache.
    """
    if part == NETWORK:
        own = {"method": "draft_model", "model": drafter} | ({"revision": revision} if revision else {})
        config = {"speculative_config": own | {"num_speculative_tokens": draft_length}}
        return config | ({"disable_hybrid_kv_cache_manager": True} if mixed else {})
    return {
        "speculative_config": {"method": "custom_class", "model": PROPOSER, "num_speculative_tokens": draft_length},
        "additional_config": {"drafter": drafter} | ({"drafter_revision": revision} if revision else {}),
    }


def mixes_attention(config: Path) -> bool:
    """Return whether some of a model's layers see the whole text and others a window, by its config.json."""
    return len({*(json.loads(config.read_text(encoding="utf-8")).get("layer_types") or ())}) > 1


def template_words(engine: str, description: DrafterDescription, folder: Path) -> list[str]:
    """Return the words that name the chat template of a base model, which has none itself.

    llama.cpp is not told: it tries a template on messages of its own, and does not start where that fails.

    Args:
        folder (`Path`): Of the drafter's files.
    """
    template = description.prompting.get("chat_template")
    return [] if engine == LLAMACPP or not template else ["--chat-template", str(folder.resolve() / template)]


def vllm_ngram_config(draft_length: int) -> dict[str, object]:
    """Return vLLM's settings for its own n-gram drafting."""
    own = {"method": "ngram", "prompt_lookup_min": _SHORTEST_SUFFIX, "prompt_lookup_max": _LONGEST_SUFFIX}
    return {"speculative_config": own | {"num_speculative_tokens": draft_length}}


def vllm_command(python: str, target: str, config: dict[str, object]) -> list[str]:
    """Return the words that start vLLM's server; `vllm serve` does the same where it is installed whole."""
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", target]
    for name, value in config.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [json.dumps(value)]
    return words


def llamacpp_command(
    target_gguf: str,
    drafter_gguf: str | None = None,
    draft_length: int = 0,
    ngram_length: int = 0,
) -> list[str]:
    """Return the words that start llama.cpp's server.

    Args:
        draft_length (`int`, *optional*): Tokens that the drafter's network drafts in one round at most.
        ngram_length (`int`, *optional*): Tokens that llama.cpp's own n-gram drafting, `ngram-simple`, drafts in one
            round; the network is then asked where that finds nothing. 0 leaves it out.
    """
    words, kinds = [LLAMA_SERVER, "--model", target_gguf], []
    if ngram_length:
        kinds.append("ngram-simple")
        words += ["--spec-ngram-simple-size-n", str(_SHORTEST_SUFFIX)]
        words += ["--spec-ngram-simple-size-m", str(ngram_length)]
    if drafter_gguf is not None:
        kinds.append("draft-simple")
        words += ["--spec-draft-model", drafter_gguf, "--spec-draft-n-max", str(draft_length)]
    return [*words, "--spec-type", ",".join(kinds)] if kinds else words
