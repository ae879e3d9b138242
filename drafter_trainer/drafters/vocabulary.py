"""The draft vocabulary: the ids that a target's answers in one language use."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
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


def choose_ids(counts: np.ndarray, size: int, always: Iterable[int] = (), fill: bool = False) -> torch.Tensor:
    """Choose the most frequent ids.

    Args:
        counts (`np.ndarray` of shape `(vocabulary,)`): See `count_ids`.
        size (`int`): How many at most.
        always (`Iterable[int]`): Ids that are chosen whatever their count, such as the end of a text.
        fill (`bool`, *optional*, defaults to `False`): Where fewer ids occur, choose the lowest of the others too:
            tokenizers give low ids to what is frequent, and few answers do not hold all that will be said.
    Returns:
        `torch.Tensor` of shape `(chosen,)`, int64, ascending.
    """
    order = np.argsort(-counts, kind="stable")
    always = sorted(set(always))
    frequent = [
        entry for entry in order[: size + len(always)].tolist() if (fill or counts[entry] > 0) and entry not in always
    ]
    return torch.tensor(sorted(always + frequent[: max(size - len(always), 0)]), dtype=torch.int64)


def coverage(ids: torch.Tensor, counts: np.ndarray) -> float:
    """Compute the share of counted tokens whose id is in the draft vocabulary."""
    return float(counts[ids.numpy()].sum() / max(counts.sum(), 1))


def vocabulary_bytes(ids: torch.Tensor) -> bytes:
    """Return the contents of `draft_vocabulary.safetensors`."""
    return save({"ids": ids.to(torch.int32)}, metadata={"format": "1"})


def narrow_head(model: PreTrainedModel, draft_ids: torch.Tensor) -> None:
    """Let a drafter compute logits over its draft vocabulary alone, with a head that has no other rows.

    Rows that are not there need no gradient, no optimizer state and no step: of a large vocabulary that is most.

    Args:
        model (`PreTrainedModel`): Changed in place.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): Ascending ids.
    """
    weight = model.get_output_embeddings().weight
    head = _make_head(weight.detach()[draft_ids.to(weight.device)])
    head.weight.requires_grad = weight.requires_grad
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)


def widen_head(model: PreTrainedModel, draft_ids: torch.Tensor) -> None:
    """Give a drafter with a narrow head a stock head back.

    A head that was tied and frozen is tied again. Otherwise the rows outside the draft vocabulary become the mean of
    those inside: their logit is the mean of the others' and hardly ever the largest.

    Args:
        model (`PreTrainedModel`): Changed in place.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): What it was narrowed to.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings().weight.detach()
    inside = head.weight.detach()
    frozen = not head.weight.requires_grad
    if frozen and torch.equal(inside, embeddings[draft_ids.to(embeddings.device)]):
        model.set_output_embeddings(_make_head(embeddings))
        tie_equal_embeddings(model)
        return
    weight = inside.mean(dim=0).expand(model.config.vocab_size, -1).clone()
    weight[draft_ids.to(weight.device)] = inside
    model.set_output_embeddings(_make_head(weight))


def tie_equal_embeddings(model: PreTrainedModel) -> None:
    """Tie a head to embeddings that are equal to it, so that both are saved as one matrix.

    Args:
        model (`PreTrainedModel`): Changed in place.
    """
    if torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight):
        model.config.tie_word_embeddings = True
        model.tie_weights()


def _make_head(weight: torch.Tensor) -> torch.nn.Linear:
    head = torch.nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    head.weight = torch.nn.Parameter(weight)
    return head


def map_ids(ids: torch.Tensor, draft_ids: torch.Tensor) -> torch.Tensor:
    """Turn ids of the vocabulary into places of the draft vocabulary, -1 for those outside it.

    Args:
        ids (`torch.Tensor` of any shape): Ids, none of them negative.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): Ascending ids.
    """
    places = torch.searchsorted(draft_ids, ids).clamp(max=len(draft_ids) - 1)
    return torch.where(draft_ids[places] == ids, places, -1)
