"""N-gram tables: the token that followed each short run of tokens most often."""

from pathlib import Path

import numpy as np
from safetensors import safe_open

from .settings import NGRAM_BINS, bin_of

FORMAT = "1"
MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def hash_context(context: list[int] | tuple[int, ...]) -> int:
    """Mix a run of token ids into 64 bits, never 0, which marks an empty slot."""
    mixed = len(context)
    for token in context:
        mixed = ((mixed ^ (token + 1)) * MULTIPLIER) & _MASK
        mixed ^= mixed >> 29
    return mixed or 1


class NgramTable:
    """Look up what follows the last tokens, for each order in constant time.

    The slots of an order are an open-addressing hash table at most half full: the slot of a context is its hash
    modulo their number, or one of the next.

    Args:
        slots (`dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]`): For each order (tokens of context) the hashes
            (uint64, 0 where a slot is empty), the tokens (int32) and their probabilities (uint8, in 255ths).
    """

    def __init__(self, slots: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        self._slots = slots
        self.orders = sorted(slots, reverse=True)

    def next_token(self, tail: list[int]) -> tuple[int, int] | None:
        """Say what follows most often.

        Args:
            tail (`list[int]`): The last tokens, as many as the highest order or more.
        Returns:
            `tuple` of the token and its bin in the calibration, of the order that knew it and the token's share there;
            `None` if no order knows the context.
        """
        for order in self.orders:
            if order > len(tail):
                continue
            hashes, tokens, shares = self._slots[order]
            wanted = hash_context(tail[-order:])
            slot = wanted & (len(hashes) - 1)
            while (found := hashes.item(slot)) != 0:
                if found == wanted:
                    bin_ = (order - 1) * NGRAM_BINS + bin_of(shares.item(slot) / 255, NGRAM_BINS)
                    return tokens.item(slot), bin_
                slot = (slot + 1) & (len(hashes) - 1)
        return None


def read_table(path: Path, vocabulary: int, tokenizer_sha256: str) -> NgramTable:
    """Load a table.

    Args:
        tokenizer_sha256 (`str`): Of the drafter's tokenizer.
    Raises:
        ValueError: If it was counted with another tokenizer or vocabulary.
        SafetensorError: If the file is damaged.
    """
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is of format {metadata.get('format')}, expected {FORMAT}: count the table again")
        if metadata.get("tokenizer_sha256") != tokenizer_sha256:
            raise ValueError(f"{path} was counted with another tokenizer: count it again with the target's")
        slots = {
            int(order): tuple(file.get_tensor(f"{name}.{order}") for name in ("hashes", "tokens", "shares"))
            for order in metadata.get("orders", "").split(",")
        }
    for order, (hashes, tokens, shares) in slots.items():
        # A search ends at an empty slot.
        if not len(hashes) == len(tokens) == len(shares) or len(hashes) & (len(hashes) - 1) or hashes.all():
            raise ValueError(f"{path}: the slots of order {order} have lengths that do not fit: count the table again")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
            raise ValueError(f"{path} holds ids outside the vocabulary of {vocabulary}: it is of another tokenizer")
    return NgramTable({order: (hashes.view(np.uint64), *rest) for order, (hashes, *rest) in slots.items()})
