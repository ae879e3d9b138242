"""Run a target with a source of drafts, record its rounds, and read the clock."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.sampling import sampling_arguments


@dataclass(frozen=True)
class Decoding:
    """Hold one decoded answer.

    Args:
        output_ids (`list[int]`): The new tokens, without the prompt.
        seconds (`float`): Time of the whole `generate` call, the device synchronised at both ends.
        rounds (`list[Round]`): One for each pass of the target, the one over the prompt included.
    """

    output_ids: list[int]
    seconds: float
    rounds: list[Round]


def decode(
    target_model: PreTrainedModel,
    prompt_ids: Sequence[int],
    draft_arguments: dict[str, Any],
    temperature: float,
    seed: int,
    max_new_tokens: int,
) -> Decoding:
    """Decode one prompt, batch 1.

    Args:
        target_model (`PreTrainedModel`): The target.
        prompt_ids (`Sequence[int]`): The prompt, chat template included.
        draft_arguments (`dict[str, Any]`): What tells `generate` where drafts come from, such as
            `{"assistant_model": drafter}`; empty for plain decoding. A decoding loop of its own, given as
            `custom_generate`, counts its rounds itself and has them in `rounds`.
        temperature (`float`): 0.0 is greedy.
        seed (`int`): Random state at the start.
        max_new_tokens (`int`): Length limit.
    """
    input_ids = torch.tensor([list(prompt_ids)], device=target_model.device)
    with torch.inference_mode(), _PassRecorder(target_model) as recorder:
        torch.manual_seed(seed)
        _synchronise(target_model.device)
        start = time.perf_counter()
        output = target_model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=max_new_tokens,
            **sampling_arguments(temperature),
            **draft_arguments,
        )
        _synchronise(target_model.device)
        seconds = time.perf_counter() - start
    sequence = output[0].tolist()
    loop = draft_arguments.get("custom_generate")
    rounds = recorder.rounds(len(prompt_ids), sequence) if loop is None else loop.rounds
    return Decoding(sequence[len(prompt_ids) :], seconds, rounds)


class _PassRecorder:
    """Note what goes into each pass of the target.

    A round is known from the outside: the pass that verifies it takes the last known token and the draft, and how
    far the cache reaches at the next one tells how many were kept. This holds for plain decoding, prompt lookup and
    drafters alike, and costs no copy from the device while the clock runs.
    """

    def __init__(self, target_model: PreTrainedModel) -> None:
        self._model = target_model
        self._layers = target_model.config.get_text_config().num_hidden_layers
        self._passes: list[tuple[int, torch.Tensor]] = []

    def __enter__(self) -> "_PassRecorder":
        self._hook = self._model.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _note(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if module.config.get_text_config().num_hidden_layers < self._layers:
            return  # a draft of the target's own first layers, see `assistant_early_exit` of transformers
        cache = kwargs.get("past_key_values")
        self._passes.append((0 if cache is None else int(cache.get_seq_length()), kwargs["input_ids"]))

    def rounds(self, prompt_length: int, sequence: list[int]) -> list[Round]:
        """Compute the rounds of a decoding whose prompt and output together are `sequence`."""
        known = [prompt_length] + [cached + 1 for cached, _ in self._passes[1:]] + [len(sequence)]
        result = []
        for number, (cached, input_ids) in enumerate(self._passes):
            draft = input_ids[0, known[number] - cached :].tolist()
            yielded = sequence[known[number] : known[number + 1]]
            accepted = 0
            while accepted < min(len(draft), len(yielded)) and draft[accepted] == yielded[accepted]:
                accepted += 1
            result.append(Round(len(draft), accepted, rejected=accepted < len(draft) and accepted < len(yielded)))
        return result


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
