"""The whole drafter in vLLM: lookup, n-gram table and network for every request of a batch.

    python -m vllm.entrypoints.openai.api_server --model TARGET \\
      --speculative-config '{"method": "custom_class", "num_speculative_tokens": 8,
                             "model": "drafter_trainer.serving.vllm.DrafterProposer"}' \\
      --additional-config '{"drafter": "DRAFTER"}'

vLLM calls this interface experimental; it is the one of vLLM 0.32. Its `gpu_model_runner` constructs the class with
its configuration, calls `load_model` once, and `propose` after each step with what it sampled. Rows are not requests:
they move between calls, and nothing names them. The drafts are certain tokens to vLLM, which accepts each with the
target's probability of it; asynchronous scheduling is off.
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoTokenizer

from drafter_trainer.drafters.memory import CompletionMemory
from drafter_trainer.errors import InputError
from drafter_trainer.serving.batch import BatchDrafter
from drafter_trainer.serving.drafter import open_drafter, open_for_engine
from drafter_trainer.serving.network import BatchedNetwork, slots_within
from drafter_trainer.serving.vllm_cache import TargetCache, open_target_cache

if TYPE_CHECKING:
    from vllm.config import VllmConfig

VERSION = "0.32"  # of vLLM, whose interface this is
PROPOSER = "drafter_trainer.serving.vllm.DrafterProposer"
_OPTIONS = {
    "drafter": None,
    "drafter_revision": None,
    "drafter_cache_gib": 1.0,
    "drafter_follow_clock": True,
    "drafter_memory": None,
    "drafter_memory_tokens": 100_000,
}
_SAVED_SECONDS = 60.0  # between two savings of the memory
_logger = logging.getLogger(__name__)


class DrafterProposer:
    """Propose a published drafter's tokens to vLLM.

    `additional_config` names the drafter: `drafter` (Hub id or folder), and where they are given `drafter_revision`,
    `drafter_cache_gib` (memory of the network's caches, 1 GiB; requests beyond those that fit get no network) and
    `drafter_follow_clock` (`false` goes by stored costs, so that the same batches are drafted alike in every run).
    `drafter_memory` is a file: what the target writes is remembered, at most `drafter_memory_tokens` tokens, drafted
    from, and kept there, once a minute.

    Raises:
        InputError: If no drafter is named, an option is unknown, or there is no such drafter.
    """

    def __init__(self, vllm_config: "VllmConfig") -> None:
        given = vllm_config.additional_config
        ours = {name: value for name, value in given.items() if name.startswith("drafter")}
        if unknown := sorted(ours.keys() - _OPTIONS.keys()):
            raise InputError(f"additional_config has {', '.join(unknown)}, known are {', '.join(_OPTIONS)}")
        self._options = _OPTIONS | ours
        if not self._options["drafter"]:
            raise InputError('additional_config names no drafter: give {"drafter": "Hub id or folder"}')
        if not isinstance(gibibytes := self._options["drafter_cache_gib"], int | float) or gibibytes < 0:
            raise InputError(f"drafter_cache_gib must be a number of GiB, 0 for no network, got {gibibytes!r}")
        self._memory = _open_memory(self._options["drafter_memory"], self._options["drafter_memory_tokens"])
        self._saved, self._saved_at = 0, time.monotonic()
        open_for_engine(self._options["drafter"], self._options["drafter_revision"])
        self._config = vllm_config
        self._longest = vllm_config.speculative_config.num_speculative_tokens
        self._context = vllm_config.model_config.max_model_len
        self._drafter: BatchDrafter | None = None
        self._target_cache: TargetCache | None = None

    def load_model(self, target_model: Any) -> None:
        """Load the drafter; vLLM calls this once, before it measures what memory is left for its own caches.

        Args:
            target_model (`nn.Module`): The target as vLLM runs it, whose embeddings a compact drafter shares.
        Raises:
            InputError: If the drafter cannot be used.
            IncompatibleTokenizerError: If it was trained for another tokenizer.
        """
        model_config, options = self._config.model_config, self._options
        device = torch.device(self._config.device_config.device)
        tokenizer = AutoTokenizer.from_pretrained(model_config.tokenizer, revision=model_config.tokenizer_revision)
        if self._memory is not None:
            self._memory.bind(tokenizer)
        model, loop = open_drafter(
            options["drafter"],
            options["drafter_revision"],
            tokenizer,
            model_config.get_vocab_size(),
            model_config.dtype,
            device,
            lambda: _matrices(target_model, model_config.get_vocab_size()),
        )
        network = self._target_cache = None
        if model is not None:
            context = min(self._context, model.config.max_position_embeddings)
            slots = slots_within(
                model, options["drafter_cache_gib"], self._config.scheduler_config.max_num_seqs, context
            )
            if slots == 0:
                _logger.warning("drafter_cache_gib holds no request's cache: drafting without the network")
            else:
                int8 = loop.settings.int8 and device.type == "cpu"
                network = BatchedNetwork(model, loop.draft_ids, int8, slots, context)
                self._target_cache = open_target_cache(self._config, target_model, network)
        self._drafter = BatchDrafter(
            network,
            loop.table,
            loop.settings,
            device.type,
            _end_ids(model_config),
            time.perf_counter if options["drafter_follow_clock"] else None,
            self._memory,
        )

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: np.ndarray,
        token_ids_cpu: np.ndarray,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Draft for each row of the batch.

        Args:
            sampled_token_ids (`list[list[int]]`): What the target took over in this step; empty where a prompt has
                been read in part.
            num_tokens_no_spec (`np.ndarray` of shape `(rows,)`): Tokens of each row, those included.
            token_ids_cpu (`np.ndarray` of shape `(rows, context)`): The rows.
            slot_mappings (*optional*): Where vLLM stored this step's tokens; the tables of blocks say more.
        Returns:
            `list[list[int]]`: At most `num_speculative_tokens` ids for each row.
        """
        del slot_mappings
        rows, limits = [], []
        for row, sampled in enumerate(sampled_token_ids):
            size = int(num_tokens_no_spec[row])
            rows.append(token_ids_cpu[row, :size])
            # The target adds a token of its own behind the draft.
            limits.append(max(0, min(self._longest, self._context - size - 1)) if sampled else 0)
        cache = None if self._target_cache is None else self._target_cache.take()
        drafts = self._drafter.draft(rows, limits, cache)
        self._save_memory()
        return drafts

    def _save_memory(self) -> None:
        """Save the memory now and then: nothing tells that vLLM ends."""
        memory, now = self._memory, time.monotonic()
        if memory is not None and memory.added > self._saved and now >= self._saved_at + _SAVED_SECONDS:
            self._saved_at = now
            try:
                memory.save(self._options["drafter_memory"])
                self._saved = memory.added
            except OSError as error:  # its own failure must not end the engine
                _logger.warning("the memory is not saved, and tried again in a minute: %s", error)


def _open_memory(path: str | None, max_tokens: int) -> CompletionMemory | None:
    """Load a memory, or begin one where there is no such file yet."""
    if not isinstance(path, str | None) or not isinstance(max_tokens, int):
        raise InputError(
            f"drafter_memory must be a file, drafter_memory_tokens a number, got {path!r} and {max_tokens!r}"
        )
    if path is None:
        return None
    return CompletionMemory.load(path, max_tokens) if Path(path).exists() else CompletionMemory(max_tokens)


def _matrices(target_model: Any, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target's embeddings and head, where vLLM's own draft models look for them.

    Raises:
        InputError: If this process has none of them, or a part.
    """
    language_model = getattr(target_model, "get_language_model", lambda: target_model)()
    try:
        found = [layer.weight for layer in (language_model.model.embed_tokens, language_model.lm_head)]
    except AttributeError as error:
        found, reason = [], str(error)
    else:
        reason = f"{len(found[0])} of {vocabulary} rows in this process"
    if not found or min(map(len, found)) < vocabulary:
        raise InputError(
            f"the target's embeddings cannot be shared ({reason}), which a compact drafter asks for: write its stock "
            "repository with export, and serve that"
        )
    embeddings, head = (weight[:vocabulary] for weight in found)
    return embeddings, head


def _end_ids(model_config) -> set[int]:
    """Return the ids that end a request: the target's generation settings count, as in vLLM."""
    found = set()
    for given in (
        model_config.try_get_generation_config().get("eos_token_id"),
        getattr(model_config.hf_text_config, "eos_token_id", None),
    ):
        found |= {given} if isinstance(given, int) else set(given or ())
    return found
