"""Log-probabilities for answers that came without: one pass of the local target over prompt and answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import TOP_K, Answer

_LOGITS = 1 << 28  # of one pass: a GiB in fp32


class Teacher:
    """Score what the target has said elsewhere.

    Args:
        model (`PreTrainedModel`): The target, on its device.
        pad_id (`int`): Id that fills rows up on the left.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id

    def complete(self, rows: Sequence[tuple[Request, Answer]]) -> list[tuple[Request, Answer]]:
        """Give log-probabilities to the rows that have none, in the order of the rows.

        They are the top 20 of the raw distribution at temperature 1, as `TransformersEngine` records them.
        """
        completed = list(rows)
        lacking = [number for number, (_, answer) in enumerate(rows) if answer.topk_logprobs is None]
        lacking.sort(key=lambda number: (len(rows[number][1].response_ids), len(rows[number][0].prompt_ids)))
        for numbers in self._passes(lacking, rows):
            for number, scores in zip(numbers, self._score([rows[number] for number in numbers])):
                request, answer = rows[number]
                completed[number] = (request, replace(answer, topk_ids=scores[0], topk_logprobs=scores[1]))
        return completed

    def _passes(self, numbers: Sequence[int], rows: Sequence[tuple[Request, Answer]]) -> Iterator[list[int]]:
        """Cut rows, shortest first, into passes whose logits fit."""
        positions = _LOGITS // self.model.get_output_embeddings().weight.shape[0]
        batch: list[int] = []
        for number in numbers:
            if batch and (len(batch) + 1) * len(rows[number][1].response_ids) > positions:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score(self, rows: Sequence[tuple[Request, Answer]]) -> list[tuple[np.ndarray, np.ndarray]]:
        texts = [[*request.prompt_ids, *answer.response_ids] for request, answer in rows]
        longest = max(map(len, texts))
        kept = max(len(answer.response_ids) for _, answer in rows) + 1
        device = self.model.device
        padding = torch.tensor([longest - len(text) for text in texts], device=device)
        positions = torch.arange(longest, device=device)[None] - padding[:, None]
        logits = self.model(
            input_ids=torch.tensor([[self.pad_id] * (longest - len(text)) + text for text in texts], device=device),
            attention_mask=(positions >= 0).long(),
            position_ids=positions.clamp(min=0),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        scores = []
        for row, (_, answer) in zip(logits, rows):
            # The logits at a position are of the token behind it; those of the last token answer nothing.
            said = row[-len(answer.response_ids) - 1 : -1].float()
            values, ids = said.topk(TOP_K, dim=-1)
            logprobs = values - said.logsumexp(dim=-1, keepdim=True)
            scores.append((ids.cpu().numpy(), logprobs.cpu().numpy()))
        return scores
