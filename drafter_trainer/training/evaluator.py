"""How often a target would accept a drafter's tokens, on held-out rows, teacher-forced."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from drafter_trainer.decoding.metrics import expected_alpha, greedy_agreement
from drafter_trainer.drafters.vocabulary import map_ids
from drafter_trainer.errors import InputError
from drafter_trainer.training.collators import IGNORED


@torch.inference_mode()
def evaluate_acceptance(
    model: torch.nn.Module,
    dataloader: DataLoader,
    accelerator: Accelerator,
    draft_ids: torch.Tensor | None = None,
) -> dict[str, float]:
    """Compute greedy agreement and expected α over the supervised tokens of held-out rows.

    Args:
        model (`torch.nn.Module`): The drafter, in evaluation mode, on the accelerator's device.
        dataloader (`DataLoader`): Prepared by the accelerator; batches as `SelfDistilledCollator` makes them, with
            the stored distributions.
        accelerator (`Accelerator`): Adds the processes up, without the rows that fill their last batch.
        draft_ids (`torch.Tensor`, *optional*): The draft vocabulary, where the drafter's head knows no other ids.
    Returns:
        `dict` with `greedy_agreement` and `expected_alpha`, both between 0 and 1, and `supervised_tokens`.
    Raises:
        InputError: If nothing is supervised.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in dataloader:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        supervised = batch["labels"][:, 1:] != IGNORED
        # Row by row, so that a row that only fills up a batch can be left out.
        rows = supervised.new_zeros(len(supervised), 3, dtype=torch.float32)
        index = supervised.nonzero()[:, 0]
        topk_ids, topk_logprobs = batch["topk_ids"][:, 1:][supervised], batch["topk_logprobs"][:, 1:][supervised]
        topk_ids = topk_ids if draft_ids is None else map_ids(topk_ids, draft_ids)
        chosen = logits[supervised]
        figures = (greedy_agreement(chosen, topk_ids), expected_alpha(chosen, topk_ids, topk_logprobs))
        for column, figure in enumerate((*figures, torch.ones_like(index))):
            rows[:, column].index_add_(0, index, figure.float())
        sums += accelerator.gather_for_metrics(rows).double().sum(dim=0).cpu()
    agreement, alpha, tokens = sums.tolist()
    if not tokens:
        raise InputError("held-out rows have no supervised token: their prompts fill max_length, give a larger one")
    return {
        "greedy_agreement": agreement / tokens,
        "expected_alpha": alpha / tokens,
        "supervised_tokens": tokens,
    }
