"""Engines that make the target answer."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from drafter_trainer.decoding.sampling import sampling_arguments
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import TOP_K, Answer


class TransformersEngine:
    """Answer batches of requests with `generate`.

    Args:
        model (`PreTrainedModel`): The target, on its device.
        pad_id (`int`): Id that fills prompts up on the left.
    """

    name = "transformers"

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        eos = model.generation_config.eos_token_id
        self.eos_ids = frozenset([eos] if isinstance(eos, int) else eos or [])

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer one batch.

        The random state is set from the batch's first key, so a batch is answered alike in every run.

        Args:
            requests (`Sequence[Request]`): Of one temperature and one length limit.
        Returns:
            `list[Answer]` in the order of the requests.
        """
        longest = max(len(request.prompt_ids) for request in requests)
        prompts = [[self.pad_id] * (longest - len(request.prompt_ids)) + [*request.prompt_ids] for request in requests]
        mask = [[0] * (longest - len(request.prompt_ids)) + [1] * len(request.prompt_ids) for request in requests]
        recorder = TopLogprobsRecorder(TOP_K)
        torch.manual_seed(int(requests[0].key[:15], 16))
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=torch.tensor(prompts, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                max_new_tokens=requests[0].max_new_tokens,
                pad_token_id=self.pad_id,
                logits_processor=LogitsProcessorList([recorder]),
                **sampling_arguments(requests[0].temperature),
            )
        responses = output[:, longest:].tolist()
        topk_ids, topk_logprobs = recorder.collect()
        return [self._cut(*row) for row in zip(responses, topk_ids, topk_logprobs)]

    def _cut(self, response: list[int], topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> Answer:
        end = next((position for position, token in enumerate(response) if token in self.eos_ids), None)
        length = len(response) if end is None else end + 1
        return Answer(
            response_ids=response[:length],
            topk_ids=topk_ids[:length].numpy(),
            topk_logprobs=topk_logprobs[:length].numpy(),
            finish_reason="length" if end is None else "stop",
        )


class TopLogprobsRecorder(LogitsProcessor):
    """Note the most likely ids of each step and leave the scores as they are.

    `generate` calls a caller's processors before it divides by the temperature, so what is noted is the raw
    distribution at temperature 1.

    Args:
        k (`int`): How many ids to note.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._ids: list[torch.Tensor] = []
        self._logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the step's top k; `scores` has the shape `(batch, vocabulary)`."""
        values, ids = scores.float().topk(self.k, dim=-1)
        self._ids.append(ids)
        self._logprobs.append(values - scores.float().logsumexp(dim=-1, keepdim=True))
        return scores

    def collect(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and log-probabilities, each of shape `(batch, steps, k)`, on the CPU."""
        return torch.stack(self._ids, dim=1).cpu(), torch.stack(self._logprobs, dim=1).cpu()
