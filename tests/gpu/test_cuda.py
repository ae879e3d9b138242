"""What only CUDA can show: captured steps, half precision, devices. Run with `-m gpu`, or by benchmarks/gpu.sh."""

import warnings

import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer import load_drafter
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.network_kinds import GraphedNetwork, build_network
from tests.conftest import make_model
from tests.decoding.drafts import partly_agreeing, set_draft_length, sliding_model
from tests.decoding.lossless import check_greedy
from tests.drafters.loop.conftest import SLIDING
from tests.drafters.test_load import write_drafter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
CUDA = torch.device("cuda")
PROMPTS = [[9, 33, 120, 7], [50, 60, 70, 80, 90, 100, 110], [300, 7, 7, 9, 300]]
# Differences of logits up to which bfloat16 may choose another token; those of the tiny models spread over about 30.
MARGIN = 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sliding", [False, True], ids=["full attention", "sliding windows"])
def test_captured_step_is_the_eager_step(target_model: PreTrainedModel, sliding: bool, dtype: torch.dtype) -> None:
    """A graph that replays stale places or masks drafts fluently from the wrong text."""
    model = (sliding_model(400, SLIDING) if sliding else target_model).to(CUDA, dtype)
    eager, captured = LeanNetwork(model), GraphedNetwork(model)
    for network in (eager, captured):
        network.read([9, 33, 120, 7, 301, 302])
        network.crop(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a failed capture is a warning, and would compare eager with eager
        for token in range(5, 25):
            expected, found = eager.read([token]).clone(), captured.read([token]).clone()
            tolerance = 1e-4 if dtype == torch.float32 else 0.15
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-2)
    assert captured._graph is not None


def test_grown_cache_is_captured_again(target_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that writes into the former cache would draft from a text that stands still."""
    monkeypatch.setattr("drafter_trainer.drafters.loop.network._FIRST_CAPACITY", 8)
    model = target_model.to(CUDA)
    eager, captured = LeanNetwork(model), GraphedNetwork(model)
    for token in range(5, 45):
        torch.testing.assert_close(captured.read([token]), eager.read([token]), atol=1e-4, rtol=1e-3)
    assert captured.capacity >= 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_greedy_output_is_plain_decodings(tmp_path, tokenizer, target_model, dtype) -> None:
    """Drafting may part from plain decoding only where rounding decides between two nearly equal logits."""
    folder = write_drafter(tmp_path / "drafter", partly_agreeing(target_model, 0.015), tokenizer)
    target = target_model.to(CUDA, dtype)
    drafter = load_drafter(str(folder), target, tokenizer)
    assert (drafter.device.type, drafter.dtype) == ("cuda", dtype)
    accepted = 0
    for prompt in PROMPTS:
        plain = decode(target, prompt, {}, 0.0, 0, 48)
        drafted = decode(target, prompt, {"assistant_model": drafter}, 0.0, 0, 48)
        accepted += sum(round_.accepted for round_ in drafted.rounds)
        pairs = enumerate(zip(plain.output_ids, drafted.output_ids))
        parted = next((place for place, (a, b) in pairs if a != b), None)
        if parted is None:
            assert drafted.output_ids == plain.output_ids
            continue
        assert dtype != torch.float32
        known = torch.tensor([prompt + plain.output_ids[:parted]], device=CUDA)
        with torch.inference_mode():
            logits = target(input_ids=known).logits[0, -1].float()
        chosen, other = (logits[output[parted]] for output in (plain.output_ids, drafted.output_ids))
        assert abs(float(chosen - other)) < MARGIN
    assert accepted > 0


def test_stock_loop_is_lossless_in_float32(target_model: PreTrainedModel) -> None:
    """The same of the loop of a user without this package."""
    drafter = set_draft_length(partly_agreeing(target_model, 0.015), 4).to(CUDA)
    check_greedy(target_model.to(CUDA), drafter, PROMPTS, 32)


def test_drafter_that_moved_is_refused_and_loads_again(tmp_path, tokenizer, target_model) -> None:
    """A drafter whose laid-out weights stayed on the processor would fail in the middle of an answer, or crawl."""
    folder = write_drafter(tmp_path / "drafter", make_model(tokenizer, layers=1), tokenizer)
    drafter = load_drafter(str(folder), target_model, tokenizer)
    target, prompt = target_model.to(CUDA), torch.tensor([PROMPTS[0]], device=CUDA)
    drafter.to(CUDA)
    with pytest.raises(ValueError, match=r"drafted on cpu and is on cuda:0 now: load it again there"):
        target.generate(prompt, assistant_model=drafter, max_new_tokens=8)
    again = load_drafter(str(folder), target, tokenizer)
    assert isinstance(loop_of(again).network, GraphedNetwork)
    assert target.generate(prompt, assistant_model=again, max_new_tokens=8).device.type == "cuda"


def test_int8_is_for_processors_alone(target_model: PreTrainedModel) -> None:
    """The int8 kernel is a processor's: on a GPU it is missing, or slower than half precision."""
    model = target_model.to(CUDA, torch.bfloat16)
    network = build_network(model, None, int8=True)
    matrices = [getattr(layer, name) for layer in network.layers for name in ("query_key_value", "gate_up", "down")]
    assert all(matrix.scale is None for matrix in (*matrices, network.head))
    expected = LeanNetwork(model).read(PROMPTS[0])
    torch.testing.assert_close(network.read(PROMPTS[0]), expected)


def test_sampled_output_keeps_the_targets_distribution(tmp_path, tokenizer, target_model) -> None:
    """Probabilities that are computed on another stream than the graph's would accept tokens by stale chances."""
    folder = write_drafter(tmp_path / "drafter", partly_agreeing(target_model, 0.05), tokenizer)
    target = target_model.to(CUDA)
    drafter = load_drafter(str(folder), target, tokenizer)
    with torch.inference_mode():
        expected = target(torch.tensor([PROMPTS[0]], device=CUDA)).logits[0, -1].float().softmax(-1).cpu()
    count, seen = 400, torch.zeros(len(expected))
    for seed in range(count):
        seen[decode(target, PROMPTS[0], {"assistant_model": drafter}, 1.0, seed, 2).output_ids[0]] += 1
    likely = expected > 0.02
    spread = (expected * (1 - expected) / count).sqrt()
    assert ((seen / count - expected).abs()[likely] < 5 * spread[likely]).all()
