"""The draft vocabulary: the ids that a target's answers in one language use."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from transformers import PreTrainedModel


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


class DraftHead(torch.nn.Linear):
    """Compute logits over the draft vocabulary alone, from a head that keeps a row for every id.

    Args:
        head (`torch.nn.Linear`): The whole head; its weight is copied.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): Ascending ids.
    """

    def __init__(self, head: torch.nn.Linear, draft_ids: torch.Tensor) -> None:
        super().__init__(head.in_features, head.out_features, bias=False, device=head.weight.device)
        self.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        self.register_buffer("draft_ids", draft_ids.to(head.weight.device), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(..., draft vocabulary)` for `hidden` of shape `(..., width)`."""
        return F.linear(hidden, self.weight[self.draft_ids])


def narrow_head(model: PreTrainedModel, draft_ids: torch.Tensor) -> None:
    """Let a drafter compute logits over its draft vocabulary alone, with a head of its own."""
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(DraftHead(model.get_output_embeddings(), draft_ids))


def widen_head(model: PreTrainedModel) -> None:
    """Give a drafter with a narrow head its stock head back.

    The rows outside the draft vocabulary, which were not trained, become the mean of those inside: their logit is the
    mean of the others' and hardly ever the largest.
    """
    narrow = model.get_output_embeddings()
    head = torch.nn.Linear(narrow.in_features, narrow.out_features, bias=False, dtype=narrow.weight.dtype)
    with torch.no_grad():
        inside = narrow.weight[narrow.draft_ids]
        head.weight.copy_(inside.mean(dim=0).expand_as(head.weight))
        head.weight[narrow.draft_ids.cpu()] = inside.cpu()
    model.set_output_embeddings(head.to(narrow.weight.device))


def map_ids(ids: torch.Tensor, draft_ids: torch.Tensor) -> torch.Tensor:
    """Turn ids of the vocabulary into places of the draft vocabulary, -1 for those outside it.

    Args:
        ids (`torch.Tensor` of any shape): Ids, none of them negative.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): Ascending ids.
    """
    places = torch.searchsorted(draft_ids, ids).clamp(max=len(draft_ids) - 1)
    return torch.where(draft_ids[places] == ids, places, -1)
