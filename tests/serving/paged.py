"""A fake of vLLM's paged cache on a CPU, and of its description of a step."""

import random
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.drafters.loop.test_kv_sharing import cache_of

BLOCKS, BLOCK_SIZE = 96, 4


class CpuKernels:
    """Kernels that store keys by columns and values by rows, as vLLM 0.32 does on a CPU without AMX."""

    def do_kv_cache_update(
        self, layer: Any, keys: torch.Tensor, values: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor
    ) -> None:
        blocks, heads, size, width = cache.shape
        key_cache, value_cache = cache.view(blocks, heads, 2 * size, width // 2).chunk(2, dim=2)
        for token, slot in enumerate(slots.tolist()):
            block, place = divmod(slot, size)
            for head in range(heads):
                key_cache[block, head].view(width // 2, size)[:, place] = keys[token, head]
                value_cache[block, head, place] = values[token, head]


class CoarseKernels(CpuKernels):
    """Kernels that round, as for caches in fp8."""

    def do_kv_cache_update(self, layer: Any, keys: torch.Tensor, *given: torch.Tensor) -> None:
        super().do_kv_cache_update(layer, keys // 2 * 2, *given)


class PagedTarget(torch.nn.Module):
    """A target in vLLM: the blocks of each layer's cache move with each step; other blocks are NaN."""

    def __init__(self, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.model, self.random, config = model, random.Random(0), model.config
        heads, head_dim = config.num_key_value_heads, config.head_dim
        windows = [getattr(layer.self_attn, "sliding_window", None) for layer in model.get_decoder().layers]
        windowed = [config.sliding_window] * len(windows) if config.model_type == "mistral" else windows
        self.layers = [
            SimpleNamespace(
                layer_name=f"model.layers.{number}.self_attn.attn",
                num_kv_heads=heads,
                head_size=head_dim,
                sliding_window=window,
                impl=CpuKernels(),
                kv_cache=torch.zeros(BLOCKS, heads, BLOCK_SIZE, 2 * head_dim),
            )
            for number, window in enumerate(windowed)
        ]
        self.context: Any = SimpleNamespace(attn_metadata=None)
        module = ModuleType("vllm.forward_context")
        module.get_forward_context = lambda: self.context
        monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
        monkeypatch.setitem(sys.modules, "vllm.forward_context", module)

    def config(self, **given: Any) -> SimpleNamespace:
        """Return vLLM's configuration."""
        layers = {layer.layer_name: layer for layer in self.layers}
        return SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context=layers), **given)

    def forward(self, texts: Sequence[list[int]]) -> None:
        """Run a step after which each row has a text, whose last token was sampled and has no keys yet."""
        rows = [cache_of(self.model, text[:-1]) for text in texts]
        for layer in self.layers:
            metadata = self.context.attn_metadata[layer.layer_name]
            for row, (text, cache) in enumerate(zip(texts, rows)):
                kept = cache.layers[self.layers.index(layer)]
                first = len(text) - 1 - kept.keys.shape[-2]
                positions = torch.arange(first, len(text) - 1)
                slots = metadata.block_table[row, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
                keys, values = kept.keys[0].transpose(0, 1), kept.values[0].transpose(0, 1)
                layer.impl.do_kv_cache_update(layer, keys, values, layer.kv_cache, slots)

    def step(self, texts: Sequence[list[int]]) -> None:
        """Run a step as vLLM does: describe it, then call the model."""
        self.context.attn_metadata = {}
        by_window: dict[int | None, SimpleNamespace] = {}
        for layer in self.layers:
            layer.kv_cache.fill_(float("nan"))  # of other texts and rejected tokens
            if layer.sliding_window not in by_window:
                by_window[layer.sliding_window] = self._place(texts, layer.sliding_window)
            self.context.attn_metadata[layer.layer_name] = by_window[layer.sliding_window]
        self(texts)

    def _place(self, texts: Sequence[list[int]], window: int | None) -> SimpleNamespace:
        """Give each row its blocks; block 0, which is unused, replaces those before a window."""
        free = self.random.sample(range(1, BLOCKS), BLOCKS - 1)
        table = torch.zeros(len(texts), 24, dtype=torch.int32)
        for row, text in enumerate(texts):
            first = 0 if window is None else max(0, len(text) - window)
            for block in range(first // BLOCK_SIZE, len(text) // BLOCK_SIZE + 1):
                table[row, block] = free.pop()
        positions = torch.tensor([len(text) - 2 for text in texts])  # each row read one token
        slots = table[torch.arange(len(texts)), positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        return SimpleNamespace(
            block_table=table,
            seq_lens=positions + 1,
            query_start_loc=torch.arange(len(texts) + 1),
            slot_mapping=slots.long(),
        )
