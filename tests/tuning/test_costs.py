"""What is timed: rounds of the drafts that were asked for, and of both loops the same drafts."""

import copy
from collections import Counter

import pytest
from transformers import PreTrainedModel

from drafter_trainer.arguments import DrafterArguments
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.tuning import costs as costs_module
from drafter_trainer.tuning.costs import measure_costs, measure_passes, untrained_network
from drafter_trainer.tuning.overhead import attach_confident_loop, measure_overhead

PROMPTS = [[9, 33, 120, 7], [50, 60, 70]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_passes_are_those_of_each_length(
    target_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """A curve that is shifted by one, or that counts drafting, prices every draft wrongly."""
    now = [0.0]
    monkeypatch.setattr(costs_module.time, "perf_counter", lambda: now[0])
    forward = target_model.forward

    def slow(*given, **named):
        now[0] += named["input_ids"].shape[1] / 1000
        return forward(*given, **named)

    monkeypatch.setattr(target_model, "forward", slow)
    drafter = copy.deepcopy(target_model)
    assert measure_passes(target_model, drafter, PROMPTS[0], 5, 2, temperature) == pytest.approx([1, 2, 3, 4, 5, 6])
    # It goes on drafting as it did.
    assert "generate" not in vars(drafter)


def test_costs_of_an_untrained_drafter(target_model: PreTrainedModel) -> None:
    """Before anyone trains, everything can be timed."""
    shape = DrafterArguments(num_hidden_layers=1)
    drafter, network = untrained_network(shape, target_model, 100, int8=False)
    costs = measure_costs(target_model, drafter, network, PROMPTS[0], 3, 2)
    assert len(costs.passes) == len(costs.sampling_passes) == 4
    assert min(costs.plain, costs.prompt, costs.step, *costs.passes, *costs.sampling_passes) > 0
    assert costs.step_without_graph is None
    assert measure_costs(target_model, drafter, None, PROMPTS[0], 1, 1).step == 0


def test_both_loops_draft_the_same_number(target_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop's fixed costs are shared among what it drafts: four tokens against one would compare nothing."""
    shape = DrafterArguments(num_hidden_layers=1)
    drafter, network = untrained_network(shape, target_model, 100, int8=False)
    attach_confident_loop(drafter, network)
    assert [len(loop_of(drafter).draft(prompt, 9)) for prompt in PROMPTS] == [4, 4]
    drafted: list[int] = []
    original = type(drafter).generate

    def generate(self, *given, **named):
        output = original(self, *given, **named)
        if self is not target_model:
            drafted.append(len(output.scores))
        return output

    monkeypatch.setattr(type(drafter), "generate", generate)
    seen = measure_overhead(target_model, drafter, PROMPTS)
    assert Counter(drafted).most_common(1)[0][0] == 4
    assert seen["ratio"] == pytest.approx(seen["this_loop"] / seen["stock_loop"])
    assert seen["this_loop"] > 0
