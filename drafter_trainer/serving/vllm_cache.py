"""The target's keys and values in vLLM's paged cache, for a network that was trained to attend to them.

vLLM binds each layer's cache to its `Attention` module, and describes each step in its forward context: which blocks
each row has, in the order of the rows that a proposer is given. A hook in front of the target's forward pass notes
that; nothing of vLLM is replaced. A step of a captured CUDA graph runs no hook, and shares nothing.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from drafter_trainer.serving.network import BatchedNetwork
from drafter_trainer.serving.paged_cache import BlockLayout, PagedCache, PagedLayer, flat_memory, learn_layout

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_ALONE = "the drafter drafts without the target's keys and values, which it was trained with: %s"
_READ = ("block_table", "seq_lens", "query_start_loc", "slot_mapping")  # of a layer's metadata
_UNTOLD_STEPS = 100
_logger = logging.getLogger(__name__)


class TargetCache:
    """The layers that the network attends to, and what is known of them in the latest step.

    Args:
        layers (`Sequence[Attention]`): vLLM's, one for each of the network's.
    """

    def __init__(self, layers: Sequence[Any], target_model: torch.nn.Module) -> None:
        from vllm.forward_context import get_forward_context

        self._layers = layers
        self._layouts: list[BlockLayout] = []
        self._metadata: list[Any] | None = None  # of each layer in the latest step
        self._untold = 0  # steps of which nothing was told
        self._get_context = get_forward_context
        self._hook = target_model.register_forward_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        metadata = self._get_context().attn_metadata
        # None while vLLM measures its memory, a list where it splits a batch into two.
        known = isinstance(metadata, dict)
        self._metadata = [metadata.get(layer.layer_name) for layer in self._layers] if known else None

    def take(self) -> PagedCache | None:
        """Return the cache as the latest step left it, once; `None` where that is not known."""
        metadata, self._metadata = self._metadata, None
        if self._hook is None:
            return None
        reason = None
        if metadata is None:
            self._untold += 1
            if not self._layouts and self._untold >= _UNTOLD_STEPS:
                reason = f"nothing was told of the first {_UNTOLD_STEPS} steps"
        elif not self._layouts:
            reason = self._learn(metadata)
        if reason is not None:
            _logger.warning(_ALONE, reason)
            self._hook.remove()
            self._hook = None
        if metadata is None or self._hook is None:
            return None
        return [
            PagedLayer(flat_memory(layer.kv_cache), layout, each.block_table)
            for layer, layout, each in zip(self._layers, self._layouts, metadata)
        ]

    @torch.inference_mode()
    def _learn(self, metadata: Sequence[Any]) -> str | None:
        """Learn how the layers' blocks are laid out; return why that cannot be learned, if so."""
        if lacking := [each for each in metadata if not all(hasattr(each, field) for field in _READ)]:
            return f"{type(lacking[0]).__name__} does not tell a row's blocks"
        known: dict[tuple, BlockLayout] = {}
        for layer, each in zip(self._layers, metadata):
            cache = layer.kv_cache
            if not isinstance(cache, torch.Tensor):
                return "a layer has more caches than one"
            alike = type(layer.impl), cache.shape[1:], cache.stride(), cache.dtype
            if alike not in known:

                def store(keys, values, spare, slots, layer=layer) -> None:
                    layer.impl.do_kv_cache_update(layer, keys, values, spare, slots)

                layout = learn_layout(cache, layer.num_kv_heads, layer.head_size, store)
                if layout is None or not _fits(layout, each):
                    return f"{type(layer.impl).__name__} keeps them in a form that cannot be read"
                known[alike] = layout
            self._layouts.append(known[alike])
        return None


def open_target_cache(
    vllm_config: "VllmConfig", target_model: torch.nn.Module, network: BatchedNetwork
) -> TargetCache | None:
    """Find the target's layers that a network attends to; `None`, with a line in the log, where it must do without."""
    if not network.kv_sharing_layers:
        return None
    numbered: dict[int, list[Any]] = {}
    for name, layer in vllm_config.compilation_config.static_forward_context.items():
        numbers = [int(word) for word in name.split(".") if word.isdigit()]
        if len(numbers) == 1 and hasattr(getattr(layer, "impl", None), "do_kv_cache_update"):
            numbered.setdefault(numbers[0], []).append(layer)
    found = [numbered.get(number, []) for number in network.kv_sharing_layers]
    shape = network.key_value_heads, network.head_dim
    if any(len(layers) != 1 for layers in found):
        reason = f"this process has not all of the layers {[*network.kv_sharing_layers]} of a plain decoder"
    elif any((layer.num_kv_heads, layer.head_size) != shape for (layer,) in found):
        reason = f"the layers' keys in this process are not {shape[0]} heads of {shape[1]}"
    elif any(_seen(layer.sliding_window) < _seen(own.kind.window) for (layer,), own in zip(found, network.layers)):
        reason = "the layers see less of the text than the network's"
    else:
        return TargetCache([layer for (layer,) in found], target_model)
    _logger.warning(_ALONE, reason)
    return None


def _seen(window: int | None) -> float:
    return float("inf") if window is None else window


def _fits(layout: BlockLayout, metadata: Any) -> bool:
    """Return whether a step's first row was stored in the slots that its block table names."""
    size = len(layout.offsets)
    end, count = int(metadata.seq_lens[0]), int(metadata.query_start_loc[1])
    positions = torch.arange(end - count, end, device=metadata.block_table.device)
    expected = metadata.block_table[0, positions // size] * size + positions % size
    return torch.equal(expected.long(), metadata.slot_mapping[:count].long())
