"""Continuous batching: a completion does not depend on the rest of the batch."""

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
from drafter_trainer.distillation.sampling import choose_tokens
from tests.conftest import tiny_model
from tests.distillation.conftest import REQUEST
from tests.distillation.test_engines import logprobs_of

END = 2
TEMPLATE = tuple(range(100, 120))


def make_stream(
    count: int = 30, temperature: float = 0.0, max_new_tokens: int = 20, start: tuple[int, ...] = ()
) -> list[Request]:
    """Make requests of prompts of 1 to 60 tokens after a common start, in random order."""
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
    """Complete a stream of requests, and check that each is completed once."""
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
    """Make tokens of some completions end tokens, so that completions end at different steps."""
    said = [generated(model, request)[: 6 + 2 * number] for number, request in enumerate(requests[:6])]
    model.generation_config.eos_token_id = sorted({END, *(completion[-1] for completion in said)})
    return model


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_ROOM", 5)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("start", [(), TEMPLATE], ids=["nothing shared", "template"])
def test_greedy_completions_equal_generate_on_each_prompt_alone(target_model, start) -> None:
    """Prevent a row from reading its predecessor's columns, its neighbour's, or a prompt that was put elsewhere."""
    stream = make_stream(20, start=start)
    engine = TransformersEngine(with_ends(target_model, stream), pad_id=0)
    expected = {request: generated(target_model, request) for request in stream}
    assert len({len(completion) for completion in expected.values()}) > 5
    for size, requests in ((1, stream), (4, stream[::-1]), (7, stream)):
        for request, completion in answered(engine, requests, size).items():
            assert completion.completion_ids == expected[request]
            assert completion.finish_reason == ("stop" if expected[request][-1] in engine.eos_ids else "length")
            assert completion.completion_ids == completion.topk_ids[:, 0].tolist()


@pytest.mark.usefixtures("little_room")
def test_what_is_recorded_for_a_row_is_its_own(target_model: PreTrainedModel) -> None:
    """Prevent log-probabilities of another row, position or id, disturbed by padding, or divided by T."""
    stream = make_stream(temperature=0.7)
    engine = TransformersEngine(with_ends(target_model, stream), pad_id=0)
    for request, completion in answered(engine, stream, 4).items():
        logprobs = logprobs_of(target_model, request, completion.completion_ids)
        assert completion.topk_ids.shape == completion.topk_logprobs.shape == (len(completion.completion_ids), TOP_K)
        *before, last = (token in engine.eos_ids for token in completion.completion_ids)
        assert not any(before)
        assert last if completion.finish_reason == "stop" else len(completion.completion_ids) == request.max_new_tokens
        for expected in (logprobs.topk(TOP_K).values, logprobs.gather(-1, torch.from_numpy(completion.topk_ids))):
            np.testing.assert_allclose(completion.topk_logprobs, expected, atol=1e-4)


@pytest.mark.usefixtures("little_room")
def test_sampled_completions_depend_on_nothing_but_their_request(target_model: PreTrainedModel) -> None:
    """Prevent samples that depend on a resume, the batch size or the order, or that are equal for all seeds."""
    stream = make_stream(24, temperature=1.0)
    stream += [replace(stream[0], seed=seed) for seed in range(100, 106)]
    engine = TransformersEngine(with_ends(target_model, stream), pad_id=0)
    (first, *others) = [
        {request: completion.completion_ids for request, completion in answered(engine, requests, size).items()}
        for requests, size in ((stream, 1), (stream[::-1], 4), (stream, 30))
    ]
    assert all(other == first for other in others)
    assert len({tuple(completion) for completion in first.values()}) > 20
    assert len({tuple(first[request]) for request in stream[24:]}) > 3


def test_freed_rows_are_filled_while_others_go_on(target_model: PreTrainedModel) -> None:
    """Prevent a completion up to the length limit from keeping all other rows empty."""
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
        stream = make_stream(20, start=start)
        model = with_ends(tiny_model(kind, vocab_size=400, num_hidden_layers=2, **given), stream)
        for request, completion in answered(TransformersEngine(model, pad_id=0), stream, 4).items():
            assert completion.completion_ids == generated(model, request)


def test_temperatures_and_limits_do_not_mix(target_model: PreTrainedModel) -> None:
    """Prevent a row from keeping the temperature, the noise or the length limit of an earlier completion."""
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
    """Prevent memory that grows with the number of requests."""
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
    for group, completions in TransformersEngine(target_model, pad_id=0).complete(asked()):
        # An interrupt loses the requests in progress, those that wait, and those completed since the last group.
        assert drawn - given <= 4 * size
        given += len(completions)
        assert len(group) == len(completions) == size
    assert given == drawn == 1024
    assert len(columns) > 4 * 4
    assert max(columns) <= len(REQUEST.prompt_ids) + 6


@pytest.mark.parametrize("vocabulary", [20, 64, 1000, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chosen_tokens_are_those_of_full_width_operations(vocabulary: int, dtype: torch.dtype) -> None:
    """Prevent a logit missed at a block's edge, another row's buffer, and the filling of the last block."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(19, vocabulary)).to(dtype)
    temperatures = [0.0, 1.0, 0.3, 0.7] * 4 + [1.0, 0.0, 1.0]
    noise = torch.rand(19, dtype=torch.float64).tolist()
    noise[1], noise[16] = 0.0, 1 - 2**-24
    tokens, ids, logprobs = choose_tokens(logits, temperatures, noise, 20)
    wide = logits.double()
    expected = wide.log_softmax(dim=-1)
    assert torch.allclose(logprobs.double(), expected.topk(20, dim=-1).values, atol=1e-5)
    assert torch.allclose(logprobs.double(), expected.gather(1, ids), atol=1e-5)
    for row, (temperature, place) in enumerate(zip(temperatures, noise)):
        if not temperature:
            assert wide[row, tokens[row]] == wide[row].max()
            continue
        cumulative = (wide[row] / temperature).softmax(dim=-1).cumsum(dim=-1)
        token = int(tokens[row])
        before = float(cumulative[token - 1]) if token else 0.0
        assert before - 1e-6 <= place <= float(cumulative[token]) + 1e-6


def test_ids_without_probability_are_never_drawn() -> None:
    """Prevent an id that the target rules out from being drawn at the ends of the distribution."""
    logits = torch.full((2, 200), float("-inf"))
    logits[:, [70, 150]] = 0.0
    tokens, _, _ = choose_tokens(logits, [1.0, 1.0], [0.0, 1 - 2**-24], 2)
    assert tokens.tolist() == [70, 150]
