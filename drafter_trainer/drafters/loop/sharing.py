"""The layers of the target's cache that a network attends to, where they are what it was trained with."""

from collections.abc import Sequence
from typing import Any


def layers_to_share(
    cache, wanted: Sequence[int] | None, tokens: int, heads: int, head_dim: int, windows: Sequence[int | None]
) -> list[Any] | None:
    """Return the cache's layers that a network attends to, each with `keys` and `values`.

    Args:
        cache (`transformers.Cache`): The target's, of one sequence.
        wanted (`Sequence[int]`, *optional*): Numbers of the target's layers, one for each of the network's.
        tokens (`int`): Number of tokens that the cache must hold.
        heads, head_dim (`int`): Heads of keys in the network's layers, and their size.
        windows (`Sequence[int]`): Tokens that each of the network's layers attends to; `None` for all.
    Returns:
        `list`, or `None` where the cache holds fewer tokens or more, or none in plain tensors of that shape. A layer
        with a window may have dropped the tokens before it.
    """
    layers = getattr(cache, "layers", ())
    if not wanted or len(layers) <= max(wanted) or cache.get_seq_length() != tokens:
        return None
    kept = [layers[number] for number in wanted]
    for layer, window in zip(kept, windows):
        keys = getattr(layer, "keys", None)
        if keys is None or keys.ndim != 4:
            return None
        held = keys.shape[-2] if getattr(layer, "is_sliding", False) and window is not None else tokens
        if held > tokens or keys.shape != (1, heads, held, head_dim):
            return None
    return kept
