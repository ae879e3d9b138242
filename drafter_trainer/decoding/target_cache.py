"""The target's keys and values of known texts, for networks that attend to them where nothing is decoded."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel


class LayerPart(NamedTuple):
    """Keys and values of one layer, each of shape `(1, heads, tokens, head_dim)`."""

    keys: torch.Tensor
    values: torch.Tensor


class TargetText(NamedTuple):
    """A text as the target has read it: the part of a cache that a network's `share` reads.

    Args:
        layers (`list[LayerPart]`): `None` in place of a layer that no network asked for.
        tokens (`int`): Number of tokens.
    """

    layers: list[LayerPart | None]
    tokens: int

    def get_seq_length(self) -> int:
        """Return the number of tokens, as a cache does."""
        return self.tokens

    def first(self, tokens: int) -> "TargetText":
        """Return what the target's cache holds when so many tokens are verified."""
        parts = [each and LayerPart(*(states[:, :, :tokens] for states in each)) for each in self.layers]
        return TargetText(parts, tokens)


class TargetTexts:
    """Reads texts with the target, each once, for networks that attend to its keys."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], TargetText] = {}

    def read(self, network, token_ids: Sequence[int]) -> TargetText | None:
        """Read a text for a network; `None` for one that does not attend to the target's keys.

        Args:
            network (`LeanNetwork` or `StockNetwork`, *optional*): The drafter's network.
            token_ids (`Sequence[int]`): The whole text, prompt and completion.
        """
        wanted = getattr(network, "kv_sharing_layers", None)
        if not wanted:
            return None
        key = (*wanted,), (*token_ids,)
        if key not in self._known:
            cache = DynamicCache()
            with torch.inference_mode():
                ids = torch.tensor([key[1]], device=self._model.device)
                self._model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            kept = [
                LayerPart(layer.keys, layer.values) if place in wanted else None
                for place, layer in enumerate(cache.layers)
            ]
            self._known[key] = TargetText(kept, len(token_ids))
        return self._known[key]
