"""Costs of a machine, measured with a scripted clock."""

import copy
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from drafter_trainer.decoding.replay import Costs
from drafter_trainer.errors import InputError
from drafter_trainer.tuning import costs as costs_module
from drafter_trainer.tuning.costs import (
    Turn,
    combine_turns,
    expected_speedup,
    expected_tokens,
    measure_costs,
    read_costs,
    write_costs,
)
from tests.conftest import change_json

PROMPTS = [[9, 33, 120, 7], [50, 60, 70]]


@pytest.fixture
def machine(target_model, monkeypatch) -> Callable[[Callable[[int], float]], None]:
    """A scripted clock: a pass takes a millisecond a token, times a factor that depends on the pass's number."""

    def script(slower: Callable[[int], float]) -> None:
        now, passes, forward = [0.0], itertools.count(), type(target_model).forward

        def slow(*given, **named):
            now[0] += named["input_ids"].shape[1] / 1000 * slower(next(passes))
            return forward(target_model, *given, **named)

        monkeypatch.setattr(costs_module.time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(target_model, "forward", slow)

    return script


def test_passes_are_those_of_each_length(target_model: PreTrainedModel, machine: Callable) -> None:
    """A curve that is shifted by one, or that counts drafting, prices every draft wrongly."""
    machine(lambda number: 1.0)
    drafter = copy.deepcopy(target_model)
    costs = measure_costs(target_model, drafter, None, PROMPTS[0], 5, 2)
    assert costs.passes == pytest.approx([1, 2, 3, 4, 5, 6])
    assert costs.sampling_passes == pytest.approx([1, 2, 3, 4, 5, 6])
    assert (costs.plain, costs.prompt, costs.spread) == pytest.approx((1, len(PROMPTS[0]), 0))
    # It goes on drafting as it did.
    assert "generate" not in vars(drafter)


@pytest.mark.parametrize("busy", [range(40, 90), range(25, 45), range(200)], ids=["over turns", "between", "whole"])
def test_busy_spell_changes_no_ratio(target_model: PreTrainedModel, machine: Callable, busy: range) -> None:
    """Plain decoding that is timed in a busy spell, and passes after it, promised 1.88x for 1.12 tokens a pass."""
    machine(lambda number: 2.0 if number in busy else 1.0)
    costs = measure_costs(target_model, target_model, None, PROMPTS[0], 5, 5)
    assert [taken / costs.plain for taken in costs.passes] == pytest.approx([1, 2, 3, 4, 5, 6])
    assert costs.steady


def test_no_speedup_exceeds_the_tokens_per_pass() -> None:
    """A speedup that no machine can have would choose the sources by noise."""
    draw = random.Random(0)
    for _ in range(200):
        prompt, plain, *rounds = (draw.lognormvariate(0, 1) for _ in range(10))
        turn = Turn(prompt, plain, rounds[:4], rounds[4:])
        costs = combine_turns([turn, Turn(plain, prompt, rounds[4:], rounds[:4])])
        assert costs.plain <= min(costs.prompt, *costs.passes, *costs.sampling_passes)
        for alpha, length in itertools.product((0.0, 0.5, 1.0), range(4)):
            assert expected_speedup(alpha, length, costs) <= expected_tokens(alpha, length)
    with pytest.raises(InputError, match=r"plain decoding takes 180\.0 ms, but a verification pass only 96\.0 ms"):
        Costs(180.0, 400.0, [96.0, 110.0], [97.0, 111.0], 0.0)


def test_stored_costs_are_checked(tmp_path: Path) -> None:
    """Drafts whose time was not measured must not be tried with the costs of others."""
    with pytest.raises(InputError, match=r"has no costs.json: name the folder of a tuning"):
        read_costs(tmp_path, 1)
    costs = Costs(10.0, 20.0, [10.0, 11.0, 12.0], [13.0, 14.0, 15.0], 0.0)
    write_costs(tmp_path, costs)
    assert read_costs(tmp_path, 2) == costs
    shorter = read_costs(tmp_path, 1)
    assert (shorter.passes, shorter.sampling_passes, shorter.plain) == ([10.0, 11.0], [13.0, 14.0], 10.0)
    with pytest.raises(InputError, match="drafts of up to 2 tokens: give longest_draft 2, or measure again"):
        read_costs(tmp_path, 3)
    change_json(tmp_path / "costs.json", prompt=9.0, passes=[8.0])
    with pytest.raises(InputError, match=r"costs.json: one token .* takes 10\.0 ms, .* only 8\.0 ms"):
        read_costs(tmp_path, 0)
