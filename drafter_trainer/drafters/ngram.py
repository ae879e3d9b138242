"""Count n-gram tables (see `loop.ngram` for how they are read)."""

from collections.abc import Iterable, Sequence

import numpy as np
from safetensors.numpy import save

from drafter_trainer.drafters.loop.ngram import FORMAT, hash_context

_DISCOUNT = 0.5

# For each order hashes, tokens and shares, as `loop.ngram.NgramTable` takes them
Slots = dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]


def count_table(
    answers: Iterable[Sequence[int]], orders: Sequence[int], min_share: float = 0.1, max_entries: int = 1 << 18
) -> Slots:
    """Count which token follows each run of tokens most often.

    The share of a follower is `(its count - 1/2) / count of the run`: a run that was seen once tells less than one
    that was seen often.

    Args:
        answers (`Iterable[Sequence[int]]`): Token ids; no run crosses from one into the next.
        orders (`Sequence[int]`): Lengths of the runs.
        min_share (`float`, *optional*, defaults to 0.1): Leave out runs whose best follower has less.
        max_entries (`int`, *optional*, defaults to 2^18): Keep so many runs of each order, the most frequent ones.
    Returns:
        `Slots`.
    """
    rows = [np.asarray(answer, dtype=np.int64) for answer in answers]
    return {order: _count_order(rows, order, min_share, max_entries) for order in orders}


def table_bytes(slots: Slots, tokenizer_sha256: str) -> bytes:
    """Return the contents of `ngram.safetensors`."""
    tensors = {}
    for order, (hashes, tokens, shares) in slots.items():
        tensors |= {f"hashes.{order}": hashes.view(np.int64), f"tokens.{order}": tokens, f"shares.{order}": shares}
    orders = ",".join(str(order) for order in sorted(slots))
    return save(tensors, metadata={"format": FORMAT, "orders": orders, "tokenizer_sha256": tokenizer_sha256})


def _count_order(
    rows: list[np.ndarray], order: int, min_share: float, max_entries: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    windows = [np.lib.stride_tricks.sliding_window_view(row, order + 1) for row in rows if len(row) > order]
    if not windows:
        return _hash_table(np.zeros((0, order), np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint8))
    runs, counts = np.unique(np.concatenate(windows), axis=0, return_counts=True)
    # Runs come sorted, so those that differ in the follower alone stand together.
    starts = np.flatnonzero(np.r_[True, (runs[1:, :order] != runs[:-1, :order]).any(axis=1)])
    totals = np.add.reduceat(counts, starts)
    group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(runs)]))
    best = np.lexsort((np.arange(len(runs)), -counts, group))[starts]
    shares = (counts[best] - _DISCOUNT) / totals
    kept = np.flatnonzero(shares >= min_share)
    kept = kept[np.argsort(-totals[kept], kind="stable")[:max_entries]]
    followers, bytes_ = runs[best[kept], order].astype(np.int32), np.round(shares[kept] * 255).astype(np.uint8)
    return _hash_table(runs[best[kept], :order], followers, bytes_)


def _hash_table(
    contexts: np.ndarray, tokens: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = 1 << (2 * len(contexts)).bit_length()
    columns = np.zeros(size, np.uint64), np.zeros(size, np.int32), np.zeros(size, np.uint8)
    hashes, slot_tokens, slot_shares = columns
    for context, token, share in zip(contexts.tolist(), tokens, shares):
        hash_ = hash_context(context)
        slot = hash_ & (size - 1)
        while hashes[slot]:
            slot = (slot + 1) & (size - 1)
        hashes[slot], slot_tokens[slot], slot_shares[slot] = hash_, token, share
    return columns
