"""Command lines and settings with which engines draft."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP
from drafter_trainer.serving.client import VLLM
from drafter_trainer.serving.vllm import PROPOSER

WHOLE, NETWORK = PARTS = ("whole", "network")
NETWORK_ALONE = f"{DRAFTER}, {NETWORK} alone"
LLAMA_SERVER = "llama-server"
DRAFTER_GGUF = "drafter.gguf"  # in the folder of an export for llama.cpp
# Lengths of the suffix that is looked up; a single token is rarely followed by the same token again.
_SHORTEST_SUFFIX, _LONGEST_SUFFIX = 2, 4
_LONGEST_WHOLE, _LONGEST_NETWORK = 12, 8
_STEP_SHARE = 0.1  # time of a network's step in an engine, relative to a verification pass
_UNKNOWN_ALPHA = 0.55


def choose_draft_length(description: DrafterDescription, part: str) -> int:
    """Choose an engine's maximum draft length; `draft_length` in `drafter.json` is for transformers' own loop.

    The whole drafter adapts its drafts, so it gets the longest draft of its tuning, 12 at most. The network only gets
    the length n that maximizes (1 - α^(n+1)) / ((1 - α)(1 + n c)), with the expected α of its finetuning and c = 0.1.

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


def mixes_attention(config: Path) -> bool:
    """Return whether a model has layers with full and with sliding-window attention, by its config.json."""
    return len(set(json.loads(config.read_text(encoding="utf-8")).get("layer_types") or ())) > 1


def vllm_config(
    drafter: str, draft_length: int, revision: str | None = None, part: str = WHOLE, mixed: bool = False
) -> dict[str, object]:
    """Return vLLM's settings for the whole drafter (a custom proposer) or for its network (a `draft_model`).

    vLLM needs all layers of a `draft_model` in one group of its cache, also if the network is `mixed` (see
    `mixes_attention`).
    """
    config = {"num_speculative_tokens": draft_length}
    if part == NETWORK:
        config |= {"method": "draft_model", "model": drafter} | ({"revision": revision} if revision else {})
        return {"speculative_config": config} | ({"disable_hybrid_kv_cache_manager": True} if mixed else {})
    return {
        "speculative_config": config | {"method": "custom_class", "model": PROPOSER},
        "additional_config": {"drafter": drafter} | ({"drafter_revision": revision} if revision else {}),
    }


def vllm_ngram_config(draft_length: int) -> dict[str, object]:
    """Return vLLM's settings for its own n-gram drafting."""
    config = {"method": "ngram", "prompt_lookup_min": _SHORTEST_SUFFIX, "prompt_lookup_max": _LONGEST_SUFFIX}
    return {"speculative_config": config | {"num_speculative_tokens": draft_length}}


def vllm_command(python: str, target: str, config: Mapping[str, object]) -> list[str]:
    """Return the command line of vLLM's server."""
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", target]
    for name, value in config.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [json.dumps(value)]
    return words


def llamacpp_command(
    target_gguf: str, drafter_gguf: str | None = None, draft_length: int = 0, ngram_length: int = 0
) -> list[str]:
    """Return the command line of llama.cpp's server.

    With an `ngram_length`, llama.cpp's own n-gram drafting comes first; the network drafts if it finds no match.
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


class EngineMethod(NamedTuple):
    """A method of a benchmark in an engine."""

    name: str
    draft_length: int  # 0 for plain decoding
    command: tuple[str, ...]


def engine_methods(
    engine: str,
    target: str,
    drafter: str,
    stock: str,
    lengths: Mapping[str, int],
    ngram_lengths: Sequence[int],
    python: str | None = None,
    drafter_gguf: str | None = None,
    mixed: bool = False,
) -> list[EngineMethod]:
    """List the methods of a benchmark: plain decoding, the engine's n-grams, the network, and the whole drafter.

    In llama.cpp the whole drafter is the network with llama.cpp's own n-grams.

    Args:
        stock (`str`): The drafter with all its weights, for vLLM's own loader.
        lengths (`Mapping[str, int]`): Draft lengths of "whole" and "network".
        ngram_lengths (`Sequence[int]`): Draft lengths of the engine's n-grams; each length is a method.
    """
    if engine == VLLM:
        configs = [{}, *map(vllm_ngram_config, ngram_lengths)]
        configs.append(vllm_config(stock, lengths[NETWORK], part=NETWORK, mixed=mixed))
        configs.append(vllm_config(drafter, lengths[WHOLE]))
        commands = [vllm_command(python or sys.executable, target, config) for config in configs]
    else:
        network = drafter_gguf, lengths[NETWORK]
        commands = [llamacpp_command(target)]
        commands += [llamacpp_command(target, ngram_length=length) for length in ngram_lengths]
        commands += [llamacpp_command(target, *network), llamacpp_command(target, *network, lengths[WHOLE])]
    several = len(ngram_lengths) > 1
    names = [(f"{PROMPT_LOOKUP}, {length}" if several else PROMPT_LOOKUP, length) for length in ngram_lengths]
    names = [(PLAIN, 0), *names, (NETWORK_ALONE, lengths[NETWORK]), (DRAFTER, lengths[WHOLE])]
    return [EngineMethod(name, length, tuple(command)) for (name, length), command in zip(names, commands)]
