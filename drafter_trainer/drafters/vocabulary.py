"""The draft vocabulary: the ids that a target's completions in one language use."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from safetensors.torch import save
from transformers import PreTrainedModel


def count_ids(completions: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Count how often each id occurs in completions, in an array of shape `(vocabulary,)`."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for completion in completions:
        counts += np.bincount(np.asarray(completion, dtype=np.int64), minlength=vocabulary)
    return counts


def choose_ids(counts: np.ndarray, size: int, always: Iterable[int] = (), fill: bool = False) -> torch.Tensor:
    """Choose the most frequent ids.

    Args:
        always (`Iterable[int]`): Ids that are chosen whatever their count, such as the end of a text.
        fill (`bool`, *optional*, defaults to `False`): If fewer ids occur, add the lowest ids that do not occur.
            Tokenizers give low ids to frequent tokens.
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


def map_ids(ids: torch.Tensor, draft_ids: torch.Tensor) -> torch.Tensor:
    """Map ids of any shape to their index in the draft vocabulary, or to -1 if they are not in it."""
    indices = torch.searchsorted(draft_ids, ids).clamp(max=len(draft_ids) - 1)
    return torch.where(draft_ids[indices] == ids, indices, -1)


class DraftHead(torch.nn.Linear):
    """An LM head that computes logits over the draft vocabulary only.

    Rows outside the draft vocabulary need no gradient, optimizer state or step.

    The state dict is that of a stock head, so every saved drafter and checkpoint is a stock model. In a trained head,
    the rows outside the draft vocabulary are saved as the mean of the rows inside. Their logit is then the mean of the
    other logits, and hardly ever the largest. A frozen head is saved unchanged.

    Args:
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): Ascending ids.
        is_tied (`bool`): Whether the head shares the weight of the embeddings, which is saved with them.
    """

    def __init__(self, head: torch.nn.Linear, draft_ids: torch.Tensor, is_tied: bool) -> None:
        super().__init__(head.in_features, len(draft_ids), bias=False, device="meta")
        trained = head.weight.requires_grad
        draft_ids = draft_ids.to(head.weight.device)
        self.weight = torch.nn.Parameter(head.weight.detach()[draft_ids], requires_grad=trained)
        self.register_buffer("draft_ids", draft_ids, persistent=False)
        self.vocabulary = len(head.weight)
        # In a tuple, which keeps the whole frozen head from being registered as a parameter.
        self._frozen = None if trained else (None if is_tied else head.weight.detach(),)

    def restored_weight(self) -> torch.Tensor | None:
        """Return the weight of the stock head, `None` if the head shares the weight of the embeddings."""
        if self._frozen is not None:
            return self._frozen[0]
        weight = self.weight.detach()
        whole = weight.mean(dim=0).expand(self.vocabulary, -1).clone()
        whole[self.draft_ids] = weight
        return whole

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        if (weight := self.restored_weight()) is not None:
            destination[f"{prefix}weight"] = weight

    def _load_from_state_dict(self, state_dict, prefix, *given) -> None:
        name = f"{prefix}weight"
        if self._frozen is not None:
            state_dict[name] = self.weight.detach()
        elif name in state_dict and len(state_dict[name]) == self.vocabulary:
            state_dict[name] = state_dict[name][self.draft_ids.to(state_dict[name].device)]
        super()._load_from_state_dict(state_dict, prefix, *given)


def prune_head(model: PreTrainedModel, draft_ids: torch.Tensor) -> None:
    """Replace a drafter's head by a `DraftHead` over ascending ids."""
    head, tied = model.get_output_embeddings(), model.config.tie_word_embeddings
    if head.weight.requires_grad:
        model.config.tie_word_embeddings = False  # the head is trained apart from the embeddings
    model.set_output_embeddings(DraftHead(head, draft_ids, tied))


def tie_equal_embeddings(model: PreTrainedModel) -> None:
    """Tie a head to embeddings that are equal to it, so that both are saved as one matrix."""
    if torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight):
        model.config.tie_word_embeddings = True
        model.tie_weights()
