"""How often a target would accept a drafter's tokens, on held-out rows, teacher-forced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from drafter_trainer.decoding.metrics import expected_alpha, greedy_agreement
from drafter_trainer.drafters.vocabulary import map_ids
from drafter_trainer.errors import InputError
from drafter_trainer.training.collators import NOT_PREDICTED, supervised_tokens
from drafter_trainer.training.head import logits_in_pieces, replaced_head


@torch.inference_mode()
def evaluate_acceptance(
    model: torch.nn.Module,
    dataloader: DataLoader,
    accelerator: Accelerator,
    draft_ids: torch.Tensor | None = None,
    prepare: Callable[[dict[str, torch.Tensor]], dict[str, Any]] = lambda batch: batch,
) -> dict[str, float]:
    """Compute greedy agreement and expected α over the supervised tokens of held-out rows.

    Of rows without the target's top k, `accuracy` stands for both: the share of tokens that the drafter predicts.

    Args:
        model (`torch.nn.Module`): The drafter, in evaluation mode, on the accelerator's device.
        dataloader (`DataLoader`): Prepared by the accelerator; batches as `SelfDistilledCollator` makes them.
        accelerator (`Accelerator`): Adds the processes up, without the rows that fill their last batch.
        draft_ids (`torch.Tensor`, *optional*): The draft vocabulary, where the drafter's head knows no other ids.
        prepare (callable, *optional*): From a batch to what the drafter reads of it.
    Returns:
        `dict` with `greedy_agreement` and `expected_alpha`, or `accuracy`, all between 0 and 1, and
        `supervised_tokens`.
    """
    drafter, sums = accelerator.unwrap_model(model), torch.zeros(5, dtype=torch.float64)
    for batch in map(prepare, dataloader):
        supervised, tokens = supervised_tokens(batch)
        if draft_ids is not None:
            ids = {name: map_ids(tokens[name], draft_ids) for name in ("labels", "topk_ids") if name in tokens}
            tokens = tokens | ids
        count = partial(_count, drafter.get_output_embeddings(), supervised, tokens)
        with replaced_head(drafter, count):
            read = {name: batch[name] for name in NOT_PREDICTED if name in batch}
            rows = model(**read, use_cache=False).logits
        sums += accelerator.gather_for_metrics(rows).double().sum(dim=0).cpu()
    supervised, right, compared, agreement, alpha = sums.tolist()
    if not supervised:
        raise InputError("held-out rows have no supervised token: their prompts fill max_length, give a larger one")
    if not compared:
        return {"accuracy": right / supervised, "supervised_tokens": supervised}
    return {
        "greedy_agreement": agreement / compared,
        "expected_alpha": alpha / compared,
        "supervised_tokens": supervised,
    }


def _count(
    head: torch.nn.Linear, supervised: torch.Tensor, tokens: dict[str, torch.Tensor], hidden: torch.Tensor
) -> torch.Tensor:
    """Sum the figures up row by row, so that a row that only fills up a batch can be left out."""
    rows = hidden.new_zeros(len(hidden), 5, dtype=torch.float32)
    chosen, index = hidden[:, :-1][supervised], supervised.nonzero()[:, 0]
    for place, logits in logits_in_pieces(chosen, head):
        right = (logits.argmax(dim=-1) == tokens["labels"][place]).float()
        figures = [torch.ones_like(right), right]
        if "topk_ids" in tokens:
            topk_ids = tokens["topk_ids"][place]
            figures.append(torch.ones_like(right))
            figures.append(greedy_agreement(logits, topk_ids).float())
            figures.append(expected_alpha(logits, topk_ids, tokens["topk_logprobs"][place]))
        rows[:, : len(figures)].index_add_(0, index[place], torch.stack(figures, dim=1))
    return rows
