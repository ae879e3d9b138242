"""Continuous batching: an answer is the same, whatever stands beside it, before it or after it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.decoding.rounds import decode
from drafter_trainer.distillation import batching
from drafter_trainer.distillation.batching import RoomyLayer
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import TOP_K, Completion, Request
from tests.conftest import tiny_model
from tests.distillation.conftest import REQUEST
from tests.distillation.test_engines import logprobs_of

END = 2
TEMPLATE = tuple(range(100, 120))


def make_stream(
    count: int = 30, temperature: float = 0.0, max_new_tokens: int = 20, start: tuple[int, ...] = ()
) -> list[Request]:
    """Ask prompts of 1 to 60 tokens behind what all begin with, in no order of their lengths."""
    random_state = random.Random(0)
    return [
        replace(
            REQUEST,
            prompt_ids=start
            + tuple(random_state.randrange(5, 400) for _ in range(random_state.choice([1, 3, 9, 25, 60]))),
            temperature=temperature,
            seed=number,
            max_new_tokens=max_new_tokens,
        )
        for number in range(count)
    ]


def answered(engine: TransformersEngine, requests: Sequence[Request], size: int) -> dict[Request, Completion]:
    """Completion a stream; every request must come back once."""
    batches = (requests[start : start + size] for start in range(0, len(requests), size))
    groups = [[*zip(*group)] for group in engine.complete(batches)]
    assert [len(group) for group in groups[:-1]] == [size] * (len(groups) - 1)
    assert 0 < len(groups[-1]) <= size
    given = dict(row for group in groups for row in group)
    assert sum(map(len, groups)) == len(requests)
    assert given.keys() == set(requests)
    return given


def generated(model: PreTrainedModel, request: Request) -> list[int]:
    return decode(model, request.prompt_ids, {}, 0.0, 0, request.max_new_tokens).output_ids


def with_ends(model: PreTrainedModel, requests: Sequence[Request]) -> PreTrainedModel:
    """Make tokens of some answers end tokens, so that answers end at different steps."""
    said = [generated(model, request)[: 6 + 2 * number] for number, request in enumerate(requests[:6])]
    model.generation_config.eos_token_id = sorted({END, *(answer[-1] for answer in said)})
    return model


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_ROOM", 5)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("start", [(), TEMPLATE], ids=["nothing shared", "template"])
def test_greedy_answers_equal_generate_on_each_prompt_alone(target_model, start) -> None:
    """Prevent a row from reading its predecessor's columns, its neighbour's, or a prompt that was put elsewhere."""
    stream = make_stream(start=start)
    engine = TransformersEngine(with_ends(target_model, stream), pad_id=0)
    expected = {request: generated(target_model, request) for request in stream}
    assert len({len(answer) for answer in expected.values()}) > 5
    for size, requests in ((1, stream), (3, stream), (4, stream[::-1]), (7, stream)):
        for request, answer in answered(engine, requests, size).items():
            assert answer.completion_ids == expected[request]
            assert answer.finish_reason == ("stop" if expected[request][-1] in engine.eos_ids else "length")
            assert answer.completion_ids == answer.topk_ids[:, 0].tolist()


@pytest.mark.usefixtures("little_room")
def test_what_is_recorded_for_a_row_is_its_own(target_model: PreTrainedModel) -> None:
    """Prevent log-probabilities of another row, position or id, disturbed by padding, or divided by T."""
    stream = make_stream(temperature=0.7)
    engine = TransformersEngine(with_ends(target_model, stream), pad_id=0)
    for request, answer in answered(engine, stream, 4).items():
        logprobs = logprobs_of(target_model, request, answer.completion_ids)
        assert answer.topk_ids.shape == answer.topk_logprobs.shape == (len(answer.completion_ids), TOP_K)
        *before, last = (token in engine.eos_ids for token in answer.completion_ids)
        assert not any(before)
        assert last if answer.finish_reason == "stop" else len(answer.completion_ids) == request.max_new_tokens
        for expected in (logprobs.topk(TOP_K).values, logprobs.gather(-1, torch.from_numpy(answer.topk_ids))):
            np.testing.assert_allclose(answer.topk_logprobs, expected, atol=1e-4)


@pytest.mark.usefixtures("little_room")
def test_sampled_answers_depend_on_nothing_but_their_request(target_model: PreTrainedModel) -> None:
    """Prevent a resume, a batch size or an order from sampling anew, and samples of one prompt from being one."""
    stream = make_stream(24, temperature=1.0)
    stream += [replace(stream[0], seed=seed) for seed in range(100, 106)]
    engine = TransformersEngine(with_ends(target_model, stream), pad_id=0)
    (first, *others) = [
        {request: answer.completion_ids for request, answer in answered(engine, requests, size).items()}
        for requests, size in ((stream, 1), (stream[::-1], 4), (stream, 30))
    ]
    assert all(other == first for other in others)
    assert len({tuple(answer) for answer in first.values()}) > 20
    assert len({tuple(first[request]) for request in stream[24:]}) > 3


def test_freed_rows_are_filled_while_others_go_on(target_model: PreTrainedModel) -> None:
    """Prevent one answer that goes on up to the limit from keeping all other rows empty."""
    stream = make_stream(40, max_new_tokens=30)
    short = [replace(request, max_new_tokens=3) for request in stream]
    requests = [long if number % 8 == 0 else brief for number, (long, brief) in enumerate(zip(stream, short))]
    passes: list[int] = []
    note = lambda _, __, given: passes.append(len(given["input_ids"]))  # noqa: E731
    target_model.register_forward_pre_hook(note, with_kwargs=True)
    answered(TransformersEngine(target_model, pad_id=0), requests, 8)
    # Batch by batch each of the five would take 30 passes; 5 x 30 + 35 x 3 tokens on 8 rows are 32.
    assert len(passes) < 90
    assert sum(passes) < 2 * (5 * 30 + 35 * 3)


STATE = {"layer_types": ["conv", "full_attention"], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END}


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize(("kind", "given"), [("mistral", {"sliding_window": 8}), ("lfm2", STATE)])
def test_windows_and_states_are_a_rows_own(kind: str, given: dict[str, Any]) -> None:
    """Prevent another window because a row began elsewhere, and the state that another request left."""
    for start in ((), TEMPLATE):
        stream = make_stream(start=start)
        model = with_ends(tiny_model(kind, vocab_size=400, num_hidden_layers=2, **given), stream)
        for request, answer in answered(TransformersEngine(model, pad_id=0), stream, 4).items():
            assert answer.completion_ids == generated(model, request)


def test_temperatures_and_limits_do_not_mix(target_model: PreTrainedModel) -> None:
    """Prevent a row from keeping the temperature, the noise or the length limit of the answer before."""
    kinds = [(0.0, 12), (0.3, 1), (1.0, 7), (1.0, 12), (0.0, 1)]
    stream = [request for kind in kinds for request in make_stream(5, *kind)]
    engine = TransformersEngine(target_model, pad_id=0)
    together = answered(engine, stream, 4)
    for request in stream:
        (alone,) = engine.complete_batch([request])
        assert together[request].completion_ids == alone.completion_ids
        if alone.finish_reason == "length":
            assert len(alone.completion_ids) == request.max_new_tokens


def test_many_requests_need_the_memory_of_a_few(target_model, monkeypatch) -> None:
    """Prevent a cache, requests or answers that pile up as the run goes on."""
    size, drawn, columns = 32, 0, []
    resize = RoomyLayer.resize

    def noted(layer: RoomyLayer, rows: int, width: int, coming: int = 0) -> None:
        columns.append(width)
        assert rows <= size
        resize(layer, rows, width, coming)

    monkeypatch.setattr(RoomyLayer, "resize", noted)

    def asked() -> Iterator[list[Request]]:
        nonlocal drawn
        for start in range(0, 1024, size):
            batch = [replace(REQUEST, seed=start + n, max_new_tokens=2 + n % 5) for n in range(size)]
            drawn += len(batch)
            yield batch

    given = 0
    for group, answers in TransformersEngine(target_model, pad_id=0).complete(asked()):
        # Lost by an interrupt: what is under way, what waits, and what has ended since the last group.
        assert drawn - given <= 4 * size
        given += len(answers)
        assert len(group) == len(answers) == size
    assert given == drawn == 1024
    assert len(columns) > 4 * 4
    assert max(columns) <= len(REQUEST.prompt_ids) + 6
