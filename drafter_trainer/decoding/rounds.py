"""Run a target with a source of drafts, record its rounds, and read the clock."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from drafter_trainer.decoding.energy import EnergyMeter
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.sampling import sampling_arguments


@dataclass(frozen=True)
class Decoding:
    """Hold one decoded answer.

    Args:
        output_ids (`list[int]`): The new tokens, without the prompt.
        seconds (`float`): Time of the whole `generate` call, the device synchronised at both ends.
        rounds (`list[Round]`): One for each pass of the target, the one over the prompt included.
        draft_seconds (`float`, *optional*): Time in the drafter's `generate`; 0 without a drafter: what prompt lookup
            takes for its search is not told apart from the rest of the loop.
        verification_seconds (`float`, *optional*): Time in the target's passes. What is left of `seconds` is overhead.
        joules (`float`, *optional*): Energy of the device meanwhile, where it tells.
    """

    output_ids: list[int]
    seconds: float
    rounds: list[Round]
    draft_seconds: float | None = None
    verification_seconds: float | None = None
    joules: float | None = None


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
            `{"assistant_model": drafter}`; empty for plain decoding.
        temperature (`float`): 0.0 is greedy.
        seed (`int`): Random state at the start.
        max_new_tokens (`int`): Length limit.
    """
    input_ids = torch.tensor([list(prompt_ids)], device=target_model.device)
    drafting, meter = _Stopwatch(target_model.device), EnergyMeter(target_model.device)
    recorded, timed = _PassRecorder(target_model), _timed(draft_arguments.get("assistant_model"), drafting)
    with torch.inference_mode(), recorded as recorder, timed:
        torch.manual_seed(seed)
        _synchronise(target_model.device)
        meter.start()
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
        joules = meter.stop()
    sequence = output[0].tolist()
    return Decoding(
        sequence[len(prompt_ids) :],
        seconds,
        recorder.rounds(len(prompt_ids), sequence),
        drafting.seconds(),
        recorder.stopwatch.seconds(),
        joules,
    )


class _Stopwatch:
    """Add up the time of a part of a decoding, without waiting for the device in between.

    An accelerator marks the times itself, in the order of its work: to wait for it at every mark would slow down a
    method that queues work ahead. The marks may be read when the device has been synchronised.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Any, Any]] = []

    def start(self) -> None:
        self._started = self._mark()

    def stop(self) -> None:
        self._spans.append((self._started, self._mark()))

    def seconds(self) -> float:
        if self._device.type == "cpu":
            return sum(end - start for start, end in self._spans)
        return sum(start.elapsed_time(end) for start, end in self._spans) / 1000

    def _mark(self) -> float | torch.Event:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event


@contextmanager
def _timed(drafter: PreTrainedModel | None, stopwatch: _Stopwatch) -> Iterator[None]:
    """Time a drafter's `generate`, which assisted decoding calls once a round."""
    if drafter is None:
        yield
        return
    generate, own = drafter.generate, drafter.__dict__.get("generate")

    def timed(*args: Any, **kwargs: Any) -> Any:
        stopwatch.start()
        output = generate(*args, **kwargs)
        stopwatch.stop()
        return output

    drafter.generate = timed
    try:
        yield
    finally:
        if own is None:
            del drafter.generate
        else:
            drafter.generate = own


class _PassRecorder:
    """Note what goes into each pass of the target, and the time that it takes.

    A round is known from the outside: the pass that verifies it takes the last known token and the draft, and how
    far the cache reaches at the next one tells how many were kept. This holds for plain decoding, prompt lookup and
    drafters alike, and costs no copy from the device while the clock runs.
    """

    def __init__(self, target_model: PreTrainedModel) -> None:
        self.stopwatch = _Stopwatch(target_model.device)
        self._model = target_model
        self._passes: list[tuple[int, torch.Tensor]] = []

    def __enter__(self) -> "_PassRecorder":
        self._hooks = (
            self._model.register_forward_pre_hook(self._note, prepend=True, with_kwargs=True),
            self._model.register_forward_hook(lambda *_: self.stopwatch.stop()),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        self._passes.append((0 if cache is None else int(cache.get_seq_length()), kwargs["input_ids"]))
        self.stopwatch.start()

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
