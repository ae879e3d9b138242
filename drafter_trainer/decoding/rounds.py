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
from drafter_trainer.drafters.memory import memories_paused


@dataclass(frozen=True)
class Decoding:
    """A decoded completion and its rounds.

    Args:
        output_ids (`list[int]`): The new tokens, without the prompt.
        seconds (`float`): Time of the whole `generate` call, the device synchronised at both ends.
        rounds (`list[Round]`): One for each pass of the target, the one over the prompt included.
        draft_seconds (`float`): Time in the drafter's `generate`, in the `draft` of a decoding loop of its
            own, or in the target's first layers where they draft by early exit; 0 without any of them: what prompt
            lookup takes for its search is not told apart from the rest of the loop.
        verification_seconds (`float`): Time in the target's passes. What is left of `seconds` is overhead.
        first_pass_seconds (`float`): Time up to the end of the target's first forward pass, which reads the prompt:
            the time to the first token.
        joules (`float`, *optional*): Energy of the device meanwhile, where it tells.
    """

    output_ids: list[int]
    seconds: float
    rounds: list[Round]
    draft_seconds: float
    verification_seconds: float
    first_pass_seconds: float
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
        prompt_ids (`Sequence[int]`): The prompt, chat template included.
        draft_arguments (`dict[str, Any]`): What tells `generate` where drafts come from, such as
            `{"assistant_model": drafter}`; empty for plain decoding. A decoding loop of its own, given as
            `custom_generate`, drafts in `draft` and counts its rounds itself, in `rounds`.
        seed (`int`): Random state at the start.
    """
    input_ids = torch.tensor([list(prompt_ids)], device=target_model.device)
    drafting, meter = _Stopwatch(target_model.device), EnergyMeter(target_model.device)
    loop, drafter = draft_arguments.get("custom_generate"), draft_arguments.get("assistant_model")
    timed = _timed(drafter, "generate", drafting) if loop is None else _timed(loop, "draft", drafting)
    with torch.inference_mode(), memories_paused(), _PassRecorder(target_model, drafting) as recorder, timed:
        torch.manual_seed(seed)
        _synchronise(target_model.device)
        meter.start()
        recorder.stopwatch.begin()
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
        recorder.rounds(len(prompt_ids), sequence) if loop is None else loop.rounds,
        drafting.seconds(),
        recorder.stopwatch.seconds(),
        recorder.stopwatch.seconds_to_first_end(),
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

    def begin(self) -> None:
        """Mark the time from which `seconds_to_first_end` counts."""
        self._begun = self._mark()

    def seconds_to_first_end(self) -> float:
        return self._between(self._begun, self._spans[0][1])

    def start(self) -> None:
        self._started = self._mark()

    def stop(self) -> None:
        self._spans.append((self._started, self._mark()))

    def seconds(self) -> float:
        return sum(self._between(start, end) for start, end in self._spans)

    def _between(self, start: float | torch.Event, end: float | torch.Event) -> float:
        return end - start if self._device.type == "cpu" else start.elapsed_time(end) / 1000

    def _mark(self) -> float | torch.Event:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event


@contextmanager
def _timed(owner: Any | None, name: str, stopwatch: _Stopwatch) -> Iterator[None]:
    """Time a method of what drafts, which decoding calls once a round."""
    if owner is None:
        yield
        return
    method, own = getattr(owner, name), owner.__dict__.get(name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        stopwatch.start()
        output = method(*args, **kwargs)
        stopwatch.stop()
        return output

    setattr(owner, name, timed)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


class _PassRecorder:
    """Note what goes into each pass of the target, and the time that it takes.

    A round is known from the outside: the pass that verifies it takes the last known token and the draft, and how
    far the cache reaches at the next one tells how many were kept. This holds for plain decoding, prompt lookup and
    drafters alike, and costs no copy from the device while the clock runs.

    Args:
        drafting (`_Stopwatch`): Gets the time of passes that end early: the target's first layers draft in them (see
            `assistant_early_exit` of transformers), and they are no rounds.
    """

    def __init__(self, target_model: PreTrainedModel, drafting: _Stopwatch) -> None:
        self.stopwatch = _Stopwatch(target_model.device)
        self._drafting = drafting
        self._model = target_model
        self._layers = target_model.config.get_text_config().num_hidden_layers
        self._passes: list[tuple[int, torch.Tensor]] = []

    def __enter__(self) -> "_PassRecorder":
        self._hooks = (
            self._model.register_forward_pre_hook(self._note, prepend=True, with_kwargs=True),
            self._model.register_forward_hook(lambda *_: self._running.stop()),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        whole = module.config.get_text_config().num_hidden_layers == self._layers
        if whole:
            cache = kwargs.get("past_key_values")
            self._passes.append((0 if cache is None else int(cache.get_seq_length()), kwargs["input_ids"]))
        self._running = self.stopwatch if whole else self._drafting
        self._running.start()

    def rounds(self, prompt_length: int, sequence: list[int]) -> list[Round]:
        """Compute the rounds of a decoding whose prompt and output together are `sequence`."""
        known = [prompt_length] + [cached + 1 for cached, _ in self._passes[1:]] + [len(sequence)]
        result = []
        for number, (cached, input_ids) in enumerate(self._passes):
            draft = input_ids[0, known[number] - cached :].tolist()
            yielded = sequence[known[number] : known[number + 1]]
            result.append(Round.of(draft, yielded))
        return result


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
