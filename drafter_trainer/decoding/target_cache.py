"""The target's keys and values of stored texts, for networks that attend to them in calibration and replay."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from drafter_trainer.drafters.loop.calls import CACHE


class LayerPart(NamedTuple):
    """Keys and values of one layer, each of shape `(1, heads, tokens, head_dim)`."""

    keys: torch.Tensor
    values: torch.Tensor


class TargetText(NamedTuple):
    """The target's cache of one text, reduced to the layers that a network reads.

    Args:
        layers (`list[LayerPart]`): One entry for each layer; `None` for a layer that no network reads.
        tokens (`int`): Number of tokens.
    """

    layers: list[LayerPart | None]
    tokens: int

    def get_seq_length(self) -> int:
        """Return the number of tokens, as a cache does."""
        return self.tokens

    def first(self, tokens: int) -> "TargetText":
        """Return the cache of the first `tokens` tokens."""
        parts = [part and LayerPart(part.keys[:, :, :tokens], part.values[:, :, :tokens]) for part in self.layers]
        return TargetText(parts, tokens)


class TargetTexts:
    """The target's caches of texts, computed once for each text."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._texts: dict[tuple[tuple[int, ...], tuple[int, ...]], TargetText] = {}

    def read(self, network, token_ids: Sequence[int]) -> TargetText | None:
        """Return the target's cache of a text, or `None` for a network that does not attend to the target's keys.

        Args:
            network (`LeanNetwork` or `StockNetwork`, *optional*): The drafter's network.
            token_ids (`Sequence[int]`): The whole text, prompt and completion.
        """
        wanted = getattr(network, "kv_sharing_layers", None)
        if not wanted:
            return None
        key = (*wanted,), (*token_ids,)
        if key not in self._texts:
            cache = DynamicCache()
            with torch.inference_mode():
                ids = torch.tensor([key[1]], device=self._model.device)
                self._model.base_model(input_ids=ids, **{CACHE: cache}, use_cache=True)
            layers = enumerate(cache.layers)
            parts = [LayerPart(layer.keys, layer.values) if index in wanted else None for index, layer in layers]
            self._texts[key] = TargetText(parts, len(token_ids))
        return self._texts[key]
