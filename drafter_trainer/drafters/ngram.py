"""Count n-gram tables and prune them to a size (see `loop.sources.NgramTable` for how they are read)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import save

from drafter_trainer.drafters.loop.sources import HASH_MULTIPLIER, TABLE_FORMAT

LEAST_BYTES = 4096
_DISCOUNT = 0.5
_HEADER_BYTES = 3072  # of the file, at most
_SLOT_BYTES = 8 + 4 + 1
_FEWEST_SLOTS = 4

# For each order hashes, tokens and shares, as `NgramTable` takes them
Slots = dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Entries:
    """The candidate entries of one order, sorted by the tokens that they save, most first."""

    contexts: np.ndarray  # runs of token ids, of shape `(entries, order)`
    tokens: np.ndarray  # the most frequent follower of each run
    shares: np.ndarray  # the follower's share of all followers
    saved: np.ndarray  # expected tokens that are drafted correctly only with the entry, not by a lower order

    def __len__(self) -> int:
        return len(self.tokens)


def count_entries(texts: Iterable[Sequence[int]], orders: Sequence[int], min_share: float = 0.1) -> dict[int, Entries]:
    """Count the most frequent follower of each run of tokens, and the drafted tokens that the entry saves.

    An entry saves `count of the run * (P(its follower | run) - P(the token drafted by the next lower order | run))`
    tokens; entries that save nothing are left out. P is interpolated absolute discounting: the count less 1/2, over
    the count of the run; the rest is distributed as the next lower order has it. So a run that occurred once saves at
    most half a token, and least if the lower order is certain.

    Args:
        texts (`Iterable[Sequence[int]]`): Token ids; no run crosses from one text into the next.
        min_share (`float`, *optional*, defaults to 0.1): Least `(count - 1/2) / count of the run` of a follower.
    Source: Stolcke, "Entropy-based Pruning of Backoff Language Models" (1998, arXiv cs/0006025), with the loss in
    drafted tokens instead of entropy. Discounting: Ney, Essen and Kneser (1994).
    """
    windows = _Windows(texts, max(orders) + 1)
    entries: dict[int, Entries] = {}
    lower: _Order | None = None
    for order in sorted(orders):
        lower = _Order(windows, order, lower, min_share)
        entries[order] = lower.entries()
    return entries


def build_table(entries: dict[int, Entries], max_bytes: int | None = None) -> Slots:
    """Build a table and prune it to a size.

    An order has a power of two of slots, at most half of them used. The slots of the order that saves most tokens a
    byte are doubled as long as the file fits, and each order keeps the entries that save most.

    Args:
        max_bytes (`int`, *optional*): Maximum size of the file, at least 4,096; by default all entries are kept.
    """
    slots = {order: 1 << (2 * len(kept)).bit_length() for order, kept in entries.items()}
    if max_bytes is not None:
        most, slots = slots, {order: min(_FEWEST_SLOTS, count) for order, count in slots.items()}
        saved = {order: np.concatenate(([0.0], np.cumsum(kept.saved))) for order, kept in entries.items()}

        def gain(order: int) -> float:
            before, after = (min(_entries_in(slots[order] * more), len(entries[order])) for more in (1, 2))
            return (saved[order][after] - saved[order][before]) / slots[order]

        def fits(order: int) -> bool:
            return _HEADER_BYTES + _SLOT_BYTES * (sum(slots.values()) + slots[order]) <= max_bytes

        while growing := [order for order in slots if slots[order] < most[order] and fits(order)]:
            slots[max(growing, key=gain)] *= 2
    return {order: _hash_table(kept, _entries_in(slots[order]), slots[order]) for order, kept in entries.items()}


def count_table(
    texts: Iterable[Sequence[int]], orders: Sequence[int], min_share: float = 0.1, max_bytes: int | None = None
) -> Slots:
    """Count a table and prune it: see `count_entries` and `build_table`."""
    return build_table(count_entries(texts, orders, min_share), max_bytes)


def table_bytes(slots: Slots, tokenizer_sha256: str) -> bytes:
    """Return the contents of `ngram.safetensors`."""
    tensors = {}
    for order, (hashes, tokens, shares) in slots.items():
        tensors |= {f"hashes.{order}": hashes.view(np.int64), f"tokens.{order}": tokens, f"shares.{order}": shares}
    orders = ",".join(str(order) for order in sorted(slots))
    return save(tensors, metadata={"format": TABLE_FORMAT, "orders": orders, "tokenizer_sha256": tokenizer_sha256})


def hash_contexts(contexts: np.ndarray) -> np.ndarray:
    """Return `hash_context` of each row of an array of shape `(runs, order)`, in uint64."""
    mixed = np.full(len(contexts), contexts.shape[1], np.uint64)
    for column in contexts.astype(np.uint64).T:
        mixed = (mixed ^ (column + np.uint64(1))) * np.uint64(HASH_MULTIPLIER)
        mixed ^= mixed >> np.uint64(29)
    return np.maximum(mixed, np.uint64(1))


class _Windows:
    """The distinct runs of each length, numbered, so that the parts of a run are found by their positions."""

    def __init__(self, texts: Iterable[Sequence[int]], longest: int) -> None:
        rows = [np.asarray(text, dtype=np.int64) for text in texts]
        self.tokens = np.concatenate([np.zeros(0, np.int64), *rows])
        left = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(row), 0, -1) for row in rows)])
        self.base = int(self.tokens.max(initial=0)) + 1
        # By length: the run that begins at each position; the key, the count, and the first position of each run
        self.runs = {0: np.zeros(len(self.tokens), np.int64)}
        self.keys: dict[int, np.ndarray] = {}
        self.counts: dict[int, np.ndarray] = {}
        self.places: dict[int, np.ndarray] = {}
        for length in range(1, longest + 1):
            whole = np.flatnonzero(left >= length)
            keys = self.runs[length - 1][whole] * self.base + self.tokens[whole + length - 1]
            self.keys[length], first, numbers, self.counts[length] = np.unique(
                keys, return_index=True, return_inverse=True, return_counts=True
            )
            self.places[length] = whole[first]
            self.runs[length] = np.zeros(len(self.tokens), np.int64)
            self.runs[length][whole] = numbers


class _Order:
    """All runs of one order with their followers, sorted by key, so that the followers of one run are adjacent."""

    def __init__(self, windows: _Windows, order: int, lower: "_Order | None", min_share: float) -> None:
        self.windows, self.order = windows, order
        keys, counts, places = (of[order + 1] for of in (windows.keys, windows.counts, windows.places))
        contexts = keys // windows.base
        starts = np.flatnonzero(np.diff(contexts, prepend=-1))
        sizes = np.diff(starts, append=len(keys))
        group = np.repeat(np.arange(len(starts)), sizes)
        totals = np.add.reduceat(counts, starts)
        most = np.flatnonzero(counts == np.maximum.reduceat(counts, starts)[group])
        best = most[np.flatnonzero(np.diff(group[most], prepend=-1))]  # the lowest of equally frequent ids
        self.contexts, self.places = contexts[starts], places[best]
        self.followers = keys[best] % windows.base
        self.shares = (counts[best] - _DISCOUNT) / totals

        suffix_chances, backed, backed_chances = np.zeros(len(keys)), np.full(len(starts), -1), np.zeros(len(starts))
        if lower is not None:
            shift = order - lower.order
            suffix_chances = lower.chances[windows.runs[lower.order + 1][places + shift]]
            # A run's suffix has a follower too, so it is among the contexts.
            rows = np.searchsorted(lower.contexts, windows.runs[lower.order][self.places + shift])
            backed, backed_chances = lower.drafted[rows], lower.drafted_chances[rows]
        spread = _DISCOUNT * sizes / totals
        self.chances = (counts - _DISCOUNT) / totals[group] + spread[group] * suffix_chances
        wanted = self.contexts * windows.base + backed
        rows = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        seen = (keys[rows] == wanted) & (backed >= 0)
        backed_chances = np.where(seen, counts[rows] - _DISCOUNT, 0.0) / totals + spread * backed_chances
        self.saved = totals * (self.chances[best] - backed_chances)
        self.kept = (self.saved > 0) & (self.shares >= min_share)
        # The token that an unpruned table drafts after each context, and its chance there
        self.drafted = np.where(self.kept, self.followers, backed)
        self.drafted_chances = np.where(self.kept, self.chances[best], backed_chances)

    def entries(self) -> Entries:
        """Return the entries."""
        kept = np.flatnonzero(self.kept)
        kept = kept[np.argsort(-self.saved[kept], kind="stable")]
        contexts = self.windows.tokens[self.places[kept][:, None] + np.arange(self.order)]
        return Entries(contexts, self.followers[kept], self.shares[kept], self.saved[kept])


def _entries_in(slots: int) -> int:
    return max(slots // 2 - 1, 0)


def _hash_table(entries: Entries, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place the first `count` entries, each in the slot of its hash or the next empty one after it."""
    columns = np.zeros(size, np.uint64), np.zeros(size, np.int32), np.zeros(size, np.uint8)
    hashes = hash_contexts(entries.contexts[:count])
    homes = (hashes & np.uint64(size - 1)).astype(np.int64)
    order = np.argsort(homes, kind="stable")
    homes, steps = homes[order], np.arange(len(order))
    places = np.maximum.accumulate(homes - steps) + steps
    if past := int(np.count_nonzero(places >= size)):  # continue at the beginning, before the entries there
        order = np.roll(order, past)
        homes = np.concatenate((np.zeros(past, np.int64), homes[:-past]))
        places = np.maximum.accumulate(homes - steps) + steps
    values = hashes, entries.tokens[:count], np.round(entries.shares[:count] * 255)
    for column, value in zip(columns, values):
        column[places] = value[order].astype(column.dtype)
    return columns
