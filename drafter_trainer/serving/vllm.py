"""The whole drafter in vLLM: lookup, n-gram table and network for every request of a batch.

    python -m vllm.entrypoints.openai.api_server --model TARGET \\
      --speculative-config '{"method": "custom_class", "num_speculative_tokens": 8,
                             "model": "drafter_trainer.serving.vllm.DrafterProposer"}' \\
      --additional-config '{"drafter": "DRAFTER"}'

This is the experimental interface of vLLM 0.32. Its `gpu_model_runner` constructs the class with its configuration,
calls `load_model` once, and calls `propose` after each step with the sampled tokens. Rows have no ids, and requests
move between rows. vLLM assumes q = 1 for a drafted token, so the token is accepted with its probability under the
target. Asynchronous scheduling is off.
"""

import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel

from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.load import open_drafter
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.network import reason_against
from drafter_trainer.drafters.loop.networkless import MODEL_TYPE
from drafter_trainer.drafters.loop.sources import NETWORK
from drafter_trainer.drafters.memory import CompletionMemory
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.errors import InputError
from drafter_trainer.serving.batch import BatchDrafter
from drafter_trainer.serving.network import BatchedNetwork, slots_within
from drafter_trainer.serving.vllm_cache import TargetCache, open_target_cache

if TYPE_CHECKING:
    from vllm.config import VllmConfig

VERSION = "0.32"  # version of vLLM with this interface
PROPOSER = "drafter_trainer.serving.vllm.DrafterProposer"
_OPTIONS = {
    "drafter": None,
    "drafter_revision": None,
    "drafter_cache_gib": 1.0,
    "drafter_follow_clock": True,
    "drafter_memory": None,
    "drafter_memory_tokens": 100_000,
}
_SAVE_SECONDS = 60.0
_logger = logging.getLogger(__name__)


def open_for_engine(drafter: str, revision: str | None = None, compact: bool = True) -> Repository:
    """Open the repository of a drafter.

    Raises:
        InputError: If there is no such drafter, it is an adapter, or it is compact although `compact` is false.
    """
    repository = Repository.open(drafter, revision)
    if over := repository.description.adapter_of:
        raise InputError(
            f"{drafter} is an adapter of {over['drafter']}, and engines load whole drafters: "
            "publish it without adapter_of"
        )
    if COMPACT in repository.description.weights and not compact:
        raise InputError(
            f"{drafter} is compact: it has no embeddings of its own. Write its stock repository with "
            "export, and serve this repository"
        )
    return repository


class DrafterProposer:
    """A proposer of vLLM that drafts with a published drafter.

    `additional_config` has the options: `drafter` (Hub id or folder), `drafter_revision`, `drafter_cache_gib` (memory
    for the network's caches, 1 GiB by default; requests without a cache are drafted without the network),
    `drafter_follow_clock` (`false`: draft lengths follow the stored costs, so that the same batches get the same
    drafts in every run), `drafter_memory` (a file of at most `drafter_memory_tokens` tokens: the target's completions
    are stored there once a minute, and used for drafts).

    Raises:
        InputError: If an option is missing, unknown or wrong, or there is no such drafter.
    """

    def __init__(self, vllm_config: "VllmConfig") -> None:
        given = {name: value for name, value in vllm_config.additional_config.items() if name.startswith("drafter")}
        if unknown := sorted(given.keys() - _OPTIONS.keys()):
            raise InputError(f"additional_config has {', '.join(unknown)}, expected {', '.join(_OPTIONS)}")
        self._options = options = _OPTIONS | given
        if not options["drafter"]:
            raise InputError('additional_config has no drafter: give {"drafter": "Hub id or folder"}')
        if not isinstance(gibibytes := options["drafter_cache_gib"], int | float) or gibibytes < 0:
            raise InputError(f"drafter_cache_gib must be a number of GiB, 0 for no network, got {gibibytes!r}")
        path, max_tokens, self._memory = options["drafter_memory"], options["drafter_memory_tokens"], None
        if not isinstance(path, str | None) or not isinstance(max_tokens, int):
            raise InputError(
                f"drafter_memory must be a file, drafter_memory_tokens a number, got {path!r} and {max_tokens!r}"
            )
        if path is not None:
            known = Path(path).exists()
            self._memory = CompletionMemory.load(path, max_tokens) if known else CompletionMemory(max_tokens)
        self._saved, self._saved_at = 0, time.monotonic()
        open_for_engine(options["drafter"], options["drafter_revision"])
        self._config = vllm_config
        self._longest = vllm_config.speculative_config.num_speculative_tokens
        self._context = vllm_config.model_config.max_model_len
        self._drafter: BatchDrafter | None = None
        self._target_cache: TargetCache | None = None

    def load_model(self, target_model: Any) -> None:
        """Load the drafter; vLLM calls this once, before it measures the free memory for its own caches.

        Args:
            target_model (`nn.Module`): The target in vLLM; a compact drafter shares its embeddings.
        Raises:
            InputError: If the drafter cannot be used.
            IncompatibleTokenizerError: If it was trained for another tokenizer.
        """
        options, device = self._options, torch.device(self._config.device_config.device)
        model, loop = self._load_drafter(target_model, device)
        network = self._target_cache = None
        if model is not None:
            context = min(self._context, model.config.max_position_embeddings)
            requests = self._config.scheduler_config.max_num_seqs
            slots = slots_within(model, options["drafter_cache_gib"], requests, context)
            if slots == 0:
                _logger.warning("drafter_cache_gib is too small for one request: drafting without the network")
            else:
                int8 = loop.settings.int8 and device.type == "cpu"
                network = BatchedNetwork(model, loop.draft_ids, int8, slots, context)
                self._target_cache = open_target_cache(self._config, target_model, network)
        clock = time.perf_counter if options["drafter_follow_clock"] else None
        end_ids = _end_ids(self._config.model_config)
        self._drafter = BatchDrafter(network, loop.table, loop.settings, device.type, end_ids, clock, self._memory)

    def _load_drafter(self, target_model: Any, device: torch.device) -> tuple[PreTrainedModel | None, DraftingLoop]:
        """Load the network, `None` if it is not used, and a loop with table, draft vocabulary and settings."""
        config, drafter = self._config.model_config, self._options["drafter"]
        vocabulary = config.get_vocab_size()
        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer, revision=config.tokenizer_revision)
        if self._memory is not None:
            self._memory.bind(tokenizer)
        repository = open_for_engine(drafter, self._options["drafter_revision"])
        model, loop, difference = open_drafter(
            repository,
            tokenizer,
            vocabulary,
            config.dtype,
            device,
            lambda: _embeddings_and_head(target_model, vocabulary),
        )
        if difference:
            warnings.warn(f"the target's tokenizer differs from that of {drafter}: {difference}", stacklevel=3)
        if NETWORK not in loop.settings.sources or model.config.model_type == MODEL_TYPE:
            return None, loop
        if reason := reason_against(model):
            warnings.warn(f"{drafter} drafts without its network: {reason}", stacklevel=3)
            return None, loop
        return model, loop

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: np.ndarray,
        token_ids_cpu: np.ndarray,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Draft for each row of the batch.

        Args:
            sampled_token_ids (`list[list[int]]`): The new tokens of each row in this step; empty while its prompt is
                being read.
            num_tokens_no_spec (`np.ndarray` of shape `(rows,)`): Number of tokens of each row, new ones included.
            token_ids_cpu (`np.ndarray` of shape `(rows, context)`): The token ids of the rows.
            slot_mappings (*optional*): Not used.
        Returns:
            `list[list[int]]`: At most `num_speculative_tokens` ids for each row.
        """
        rows, limits = [], []
        for row, sampled in enumerate(sampled_token_ids):
            size = int(num_tokens_no_spec[row])
            rows.append(token_ids_cpu[row, :size])
            # The target adds a token of its own after the draft.
            limits.append(max(0, min(self._longest, self._context - size - 1)) if sampled else 0)
        cache = None if self._target_cache is None else self._target_cache.take()
        drafts = self._drafter.draft(rows, limits, cache)
        memory, now = self._memory, time.monotonic()  # saved regularly: vLLM does not announce its end
        if memory is not None and memory.added > self._saved and now >= self._saved_at + _SAVE_SECONDS:
            self._saved_at = now
            try:
                memory.save(self._options["drafter_memory"])
                self._saved = memory.added
            except OSError as error:  # must not end the engine
                _logger.warning("the memory could not be saved; next attempt in a minute: %s", error)
        return drafts


def _embeddings_and_head(target_model: Any, vocabulary: int) -> list[torch.Tensor]:
    """Return the target's embeddings and head, from the attributes that vLLM's own draft models use."""
    language_model = getattr(target_model, "get_language_model", lambda: target_model)()
    try:
        found = [layer.weight for layer in (language_model.model.embed_tokens, language_model.lm_head)]
        reason = f"{len(found[0])} of {vocabulary} rows in this process"
    except AttributeError as error:
        found, reason = [], str(error)
    if not found or min(map(len, found)) < vocabulary:
        raise InputError(
            f"the target's embeddings cannot be shared ({reason}), but a compact drafter needs them: write its stock "
            "repository with export, and serve this repository"
        )
    return [weight[:vocabulary] for weight in found]


def _end_ids(model_config: Any) -> set[int]:
    """Return the ids that end a request: as in vLLM, also those in the target's generation settings."""
    found = set()
    for ids in (
        model_config.try_get_generation_config().get("eos_token_id"),
        getattr(model_config.hf_text_config, "eos_token_id", None),
    ):
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    return found
