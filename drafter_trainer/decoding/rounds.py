"""Decode one prompt with a source of drafts, record its rounds, and measure the time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.sampling import sampling_arguments
from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.drafters.memory import memories_paused


@dataclass(frozen=True)
class Decoding:
    """A decoded completion and its rounds.

    Args:
        output_ids (`list[int]`): The new tokens, without the prompt.
        seconds (`float`): Time of the whole `generate` call; the device is synchronized before and after it.
        rounds (`list[Round]`): One round for each target pass, including the pass over the prompt.
        draft_seconds (`float`): Time in the drafter's `generate`, in the `draft` of a custom decoding loop, or in the
            target's first layers for drafts by early exit. 0 for other drafts: the search of prompt lookup counts as
            overhead.
        verification_seconds (`float`): Time in the target passes. The rest of `seconds` is overhead.
        first_pass_seconds (`float`): Time to the end of the first target pass, which reads the prompt: the time to the
            first token.
    """

    output_ids: list[int]
    seconds: float
    rounds: list[Round]
    draft_seconds: float
    verification_seconds: float
    first_pass_seconds: float


def decode(
    target_model: PreTrainedModel,
    prompt_ids: Sequence[int],
    draft_arguments: dict[str, Any],
    temperature: float,
    seed: int,
    max_new_tokens: int,
) -> Decoding:
    """Decode one prompt at batch size 1.

    Args:
        prompt_ids (`Sequence[int]`): The prompt, chat template included.
        draft_arguments (`dict[str, Any]`): Arguments of `generate` that give the source of drafts, such as
            `{"assistant_model": drafter}`; empty for plain decoding. A decoding loop passed as `custom_generate`
            drafts in its method `draft` and has its own `rounds`.
        seed (`int`): Seed of the random state at the start.
    """
    device = target_model.device
    input_ids = torch.tensor([list(prompt_ids)], device=device)
    drafting, verifying = _Stopwatch(device), _Stopwatch(device)
    loop, drafter = draft_arguments.get("custom_generate"), draft_arguments.get("assistant_model")
    timed = _timed(drafter, "generate", drafting) if loop is None else _timed(loop, "draft", drafting)
    with (
        torch.inference_mode(),
        memories_paused(),
        _PassRecorder(target_model, verifying, drafting) as recorder,
        timed,
    ):
        torch.manual_seed(seed)
        _synchronize(device)
        begun, start = verifying.mark(), time.perf_counter()
        output = target_model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=max_new_tokens,
            **sampling_arguments(temperature),
            **draft_arguments,
        )
        _synchronize(device)
        seconds = time.perf_counter() - start
    sequence = output[0].tolist()
    return Decoding(
        sequence[len(prompt_ids) :],
        seconds,
        recorder.rounds(len(prompt_ids), sequence) if loop is None else loop.rounds,
        drafting.seconds(),
        verifying.seconds(),
        verifying.between(begun, verifying.spans[0][1]),
    )


class _Stopwatch:
    """The total time of one part of a decoding.

    On an accelerator, marks are events in its queue: to wait for the device at each mark would slow down methods that
    queue work ahead. Synchronize the device before you read the times.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.spans: list[tuple[Any, Any]] = []

    def start(self) -> None:
        self._started = self.mark()

    def stop(self) -> None:
        self.spans.append((self._started, self.mark()))

    def seconds(self) -> float:
        return sum(self.between(start, end) for start, end in self.spans)

    def between(self, start: float | torch.Event, end: float | torch.Event) -> float:
        return end - start if self._device.type == "cpu" else start.elapsed_time(end) / 1000

    def mark(self) -> float | torch.Event:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event


@contextmanager
def _timed(owner: Any | None, name: str, stopwatch: _Stopwatch) -> Iterator[None]:
    """Time the method of the draft source that decoding calls once in each round."""
    if owner is None:
        yield
        return
    method, replaced = getattr(owner, name), name in vars(owner)

    def timed(*args: Any, **kwargs: Any) -> Any:
        stopwatch.start()
        output = method(*args, **kwargs)
        stopwatch.stop()
        return output

    setattr(owner, name, timed)
    try:
        yield
    finally:
        if replaced:
            setattr(owner, name, method)
        else:
            delattr(owner, name)


class _PassRecorder:
    """A recorder of the input and the time of each target pass.

    The rounds follow from the inputs. A verification pass reads the last verified token and the draft. The length of
    the cache at the next pass gives the number of accepted tokens. This works for plain decoding, prompt lookup and
    drafters, and copies nothing from the device while the time is measured.

    Args:
        verifying (`_Stopwatch`): Receives the time of the target passes.
        drafting (`_Stopwatch`): Receives the time of passes through the target's first layers only. These passes draft
            (`assistant_early_exit` of transformers) and are not rounds.
    """

    def __init__(self, target_model: PreTrainedModel, verifying: _Stopwatch, drafting: _Stopwatch) -> None:
        self._model, self._verifying, self._drafting = target_model, verifying, drafting
        self._layers = target_model.config.get_text_config().num_hidden_layers
        self._passes: list[tuple[int, torch.Tensor]] = []

    def __enter__(self) -> "_PassRecorder":
        self._hooks = (
            self._model.register_forward_pre_hook(self._record, prepend=True, with_kwargs=True),
            self._model.register_forward_hook(lambda *_: self._running.stop()),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        whole = module.config.get_text_config().num_hidden_layers == self._layers
        if whole:
            cache = kwargs.get(CACHE)
            self._passes.append((0 if cache is None else int(cache.get_seq_length()), kwargs["input_ids"]))
        self._running = self._verifying if whole else self._drafting
        self._running.start()

    def rounds(self, prompt_length: int, sequence: list[int]) -> list[Round]:
        """Compute the rounds of a decoding; `sequence` is the prompt and the output."""
        ends = [prompt_length, *(cached + 1 for cached, _ in self._passes[1:]), len(sequence)]
        return [
            Round.of(input_ids[0, start - cached :].tolist(), sequence[start:end])
            for (cached, input_ids), start, end in zip(self._passes, ends, ends[1:])
        ]


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
