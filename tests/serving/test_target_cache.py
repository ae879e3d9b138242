"""The target's keys and values in vLLM's paged cache.

The fake cache is NaN except for the keys and values of verified tokens: a read from another place, row or rejected
token makes the network's logits NaN.
"""

import functools
import logging
import random
import re
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.serving.batch import BatchDrafter
from drafter_trainer.serving.network import BatchedNetwork, Piece, Span
from drafter_trainer.serving.vllm_cache import TargetCache, flat_memory, learn_layout, open_target_cache
from tests.conftest import make_model
from tests.drafters.loop.conftest import FLAT, make_settings
from tests.drafters.loop.test_kv_sharing import cache_of, make_sharing, sharing
from tests.drafters.loop.test_network import TOKENS
from tests.serving.test_batch import Engine

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


store = functools.partial(CpuKernels().do_kv_cache_update, None)


def store_side_by_side(keys: torch.Tensor, values: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Store tokens like vLLM's CUDA kernels: the values of a token after its keys."""
    pairs = torch.cat((keys, values), dim=-1)
    cache[slots // cache.shape[2], :, slots % cache.shape[2]] = pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "tokens_first"), [(store, False), (store_side_by_side, False), (store_side_by_side, True)]
)
def test_layout_is_learned_from_the_engines_own_kernel(kernel, tokens_first: bool, dtype: torch.dtype) -> None:
    """Keys of another place are plausible keys: only the acceptance would show the error."""
    heads, head_dim, blocks = 3, 8, 5
    if tokens_first:
        cache = torch.zeros(blocks, BLOCK_SIZE, heads, 2 * head_dim, dtype=dtype).transpose(1, 2)
    else:
        cache = torch.zeros(blocks, heads, BLOCK_SIZE, 2 * head_dim, dtype=dtype)
    layout = learn_layout(cache, heads, head_dim, kernel)
    assert not cache.any()
    keys, values = torch.randn(2, 6, heads, head_dim).to(dtype)
    slots = torch.tensor([7, 19, 3, 4, 12, 11])
    kernel(keys, values, cache, slots)
    places = slots[:, None] // BLOCK_SIZE * layout.stride + layout.offsets[slots % BLOCK_SIZE]
    found = flat_memory(cache).take(places).view(6, 2, heads, head_dim)
    torch.testing.assert_close(found, torch.stack((keys, values), dim=1), atol=0, rtol=0)


def test_cache_of_fewer_bits_is_not_read() -> None:
    """A cache in fp8 has scaled numbers: read as keys they would draft garbage at full cost."""
    cache = torch.zeros(5, 3, BLOCK_SIZE, 16)
    coarse = CoarseKernels()
    assert learn_layout(cache, 3, 8, lambda *given: coarse.do_kv_cache_update(None, *given)) is None
    assert learn_layout(cache.to(torch.uint8), 3, 8, store) is None
    assert learn_layout(cache, 2, 8, store) is None


@pytest.mark.parametrize("name", ["llama", "mistral with windows", "qwen3", "gemma3"])
def test_network_reads_the_targets_keys_of_each_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches with moving rows, also after unshared steps, logits must be those for each text alone."""
    monkeypatch.setattr("drafter_trainer.serving.network._SHARED_AT_ONCE", 7)
    model, target = make_sharing(name)
    network = BatchedNetwork(model, None, int8=False, slots=3, context=64)
    paged = PagedTarget(target, monkeypatch)
    cache = open_target_cache(paged.config(), paged, network)
    texts = {0: TOKENS, 2: TOKENS[3:] + TOKENS, 1: [*TOKENS[8:], 60, *TOKENS]}
    steps = [{0: 4, 2: 3}, {2: 7, 0: 5, 1: 2}, {1: 6}, {1: 20, 0: 16, 2: 28}]  # verified tokens
    shared = dict.fromkeys(texts, 0)
    for step in steps:
        paged.step([texts[slot][:size] for slot, size in step.items()])
        spans = [Span(slot, row, shared[slot], size - 1) for row, (slot, size) in enumerate(step.items())]
        network.share_batch(cache.take(), spans)
        pieces = [Piece(slot, size - 1, [texts[slot][size - 1], 9]) for slot, size in step.items()]
        expected = []
        for slot, size in step.items():
            shared[slot], alone = size - 1, LeanNetwork(model)
            assert alone.share(cache_of(target, texts[slot][: size - 1]), 0, size - 1)
            expected.append(alone.read([texts[slot][size - 1], 9]))
        torch.testing.assert_close(network.read_batch(pieces), torch.stack(expected), atol=1e-4, rtol=0)


class CountingNetwork(BatchedNetwork):
    tokens = 0

    def read_batch(self, pieces: list[Piece]) -> torch.Tensor:
        self.tokens += sum(len(piece.tokens) for piece in pieces)
        return super().read_batch(pieces)


@pytest.mark.parametrize(("slots", "missed"), [(8, 0.0), (2, 0.0), (8, 0.1)])
def test_requests_are_drafted_for_as_in_transformers(tokenizer, slots, missed, monkeypatch) -> None:
    """A draft that differs from the loop's has read keys of another request, or of a rejected token."""
    model, chance = make_model(tokenizer, layers=2), random.Random(0)
    drafting = sharing(model, noise=0.0 if missed else 0.1)
    drafting.config.prompt_window = 4
    network = CountingNetwork(drafting, None, int8=False, slots=slots, context=64)
    drafter = BatchDrafter(network, None, make_settings(FLAT, step=1e-6, sources=["network"]), "cpu", clock=None)
    paged = PagedTarget(model, monkeypatch)
    cache, alone = open_target_cache(paged.config(), paged, network), LeanNetwork(drafting)

    @torch.inference_mode()
    def target(text: list[int]) -> int:
        return int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax())

    def draft(rows: list[np.ndarray], limits: list[int]) -> list[list[int]]:
        if rows and chance.random() >= missed:  # captured graphs run no hook
            paged.step([row.tolist() for row in rows])
        return drafter.draft(rows, limits, cache.take())

    engine = Engine(SimpleNamespace(draft=draft), target, rows=4, seed=1)
    prompts = [[number, 7, 300 - number, 8] for number in range(20, 32)]
    engine.serve(prompts, [20 + number for number in range(12)])
    drafted = [(text, draft) for text, draft in engine.drafts if draft]
    for text, draft in drafted:
        alone.crop(0)
        assert alone.share(cache_of(model, text[:-1]), 0, len(text) - 1)
        token = text[-1]
        for proposed in draft:
            token = int(alone.read([token]).argmax())
            assert proposed == token
    tokens = sum(len(draft) for _, draft in drafted)
    assert tokens > (60 if slots == 2 else 200)
    assert missed or 0 < engine.accepted < 0.9 * tokens
    assert network.tokens < 1.5 * tokens  # only the target reads prompts and accepted tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda paged: paged.layers.pop(), r"does not have the layers \[0, 1\]"),
        (lambda paged: vars(paged.layers[1]).update(num_kv_heads=1), "are not 2 heads of 8"),
        (lambda paged: vars(paged.layers[0]).update(sliding_window=6), "are shorter than the network's"),
        (
            lambda paged: vars(paged.layers[1]).update(impl=CoarseKernels()),
            "CoarseKernels stores keys and values in an unknown form",
        ),
        (lambda paged: vars(paged.layers[1]).update(kv_cache=[torch.zeros(1)]), "more than one cache"),
        (lambda paged: paged.context.attn_metadata.update({paged.layers[1].layer_name: 1}), "int has no table"),
    ],
)
def test_unreadable_cache_is_not_shared(tokenizer, change, message, monkeypatch, caplog) -> None:
    """An engine whose cache cannot be read must still serve, with one warning."""
    model = make_model(tokenizer, layers=2)
    model.config.kv_sharing_layers = [0, 1]
    paged = PagedTarget(model, monkeypatch)
    paged.step([[5, 6, 7]])
    change(paged)
    with caplog.at_level(logging.WARNING):
        cache = open_target_cache(paged.config(), paged, BatchedNetwork(model, None, False, slots=1, context=16))
        for _ in range(2):
            if cache is not None:
                cache._note()
                assert cache.take() is None
    assert len(caplog.records) == 1
    assert "drafting without the target's keys and values" in caplog.text
    assert re.search(message, caplog.text)


def test_unknown_steps_share_nothing(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys may be read by a wrong table, that of a split batch, or that of an earlier step."""
    model = sharing(make_model(tokenizer, layers=2))
    paged = PagedTarget(model, monkeypatch)
    cache = TargetCache(paged.layers, paged)
    paged.step([[5, 6, 7]])
    right = paged.context.attn_metadata
    assert cache.take() is not None
    assert cache.take() is None
    for metadata in (None, [right, right]):
        cache._note()
        paged.context.attn_metadata = metadata
        cache._note()
        assert cache.take() is None
    fresh = TargetCache(paged.layers, paged)
    paged.context.attn_metadata = right
    next(iter(right.values())).slot_mapping += 1
    fresh._note()
    assert fresh.take() is None


def test_hook_that_never_runs_is_reported(tokenizer, monkeypatch, caplog) -> None:
    """A target that only runs captured graphs shares nothing, which needs a warning."""
    paged = PagedTarget(make_model(tokenizer, layers=2), monkeypatch)
    cache = TargetCache(paged.layers, paged)
    assert [cache.take() for _ in range(200)] == [None] * 200
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the first 100 steps ran no hook" in caplog.text
