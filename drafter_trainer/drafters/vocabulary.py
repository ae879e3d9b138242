"""The draft vocabulary: the ids that a target's answers in one language use."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from safetensors.torch import save


def count_ids(answers: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Count how often each id stands in the answers.

    Returns:
        `np.ndarray` of shape `(vocabulary,)`.
    """
    counts = np.zeros(vocabulary, dtype=np.int64)
    for answer in answers:
        counts += np.bincount(np.asarray(answer, dtype=np.int64), minlength=vocabulary)
    return counts


def choose_ids(counts: np.ndarray, size: int, always: Iterable[int] = ()) -> torch.Tensor:
    """Choose the most frequent ids.

    Args:
        counts (`np.ndarray` of shape `(vocabulary,)`): See `count_ids`. Ids that never occur are not chosen.
        size (`int`): How many at most.
        always (`Iterable[int]`): Ids that are chosen whatever their count, such as the end of a text.
    Returns:
        `torch.Tensor` of shape `(chosen,)`, int64, ascending.
    """
    order = np.argsort(-counts, kind="stable")
    always = sorted(set(always))
    frequent = [entry for entry in order[: size + len(always)].tolist() if counts[entry] > 0 and entry not in always]
    return torch.tensor(sorted(always + frequent[: max(size - len(always), 0)]), dtype=torch.int64)


def coverage(ids: torch.Tensor, counts: np.ndarray) -> float:
    """Compute the share of counted tokens whose id is in the draft vocabulary."""
    return float(counts[ids.numpy()].sum() / max(counts.sum(), 1))


def vocabulary_bytes(ids: torch.Tensor) -> bytes:
    """Return the contents of `draft_vocabulary.safetensors`."""
    return save({"ids": ids.to(torch.int32)}, metadata={"format": "1"})
