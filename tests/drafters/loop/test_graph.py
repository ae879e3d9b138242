"""The captured step: a graph must replay the step itself, and without CUDA nothing but the speed may change."""

import copy
import warnings

import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.network_kinds import GraphedNetwork
from tests.decoding.drafts import sliding_model
from tests.drafters.loop.conftest import SLIDING

TOKENS = [9, 33, 120, 7, 50, 60]


class Replayed(GraphedNetwork):
    """Run the captured function itself, as a replay does: on fixed places, into a fixed place."""

    captures = 0

    def _capture(self) -> bool:
        self.captures += 1
        self._captured_capacity = self.capacity
        self._logits = torch.zeros(self.head.weight.shape[0])
        network = self

        class Graph:
            def replay(self) -> None:
                network._logits.copy_(network.step())

        self._graph = Graph()
        return True


@pytest.mark.parametrize("draft_ids", [None, torch.arange(0, 400, 2)], ids=["all ids", "draft vocabulary"])
@pytest.mark.parametrize("sliding", [False, True], ids=["full", "sliding"])
def test_fixed_step_is_the_step(target_model, sliding: bool, draft_ids: torch.Tensor | None) -> None:
    """It sees the whole cache, also what a rejected draft left in it and what is beyond a layer's window: nothing of
    that may reach the logits."""
    model = sliding_model(400, SLIDING) if sliding else target_model
    lean, graphed = LeanNetwork(model, draft_ids), Replayed(model, draft_ids)
    for network in (lean, graphed):
        network.read([*TOKENS, 301, 302, 303])
        network.crop(len(TOKENS))
    for token in range(5, 15):
        torch.testing.assert_close(graphed.read([token]), lean.read([token]))
    assert graphed.length == lean.length == len(TOKENS) + 10
    assert graphed.captures == 1


def test_grown_cache_is_captured_anew(target_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent a graph from writing to the cache that was replaced."""
    monkeypatch.setattr("drafter_trainer.drafters.loop.network._FIRST_CAPACITY", 8)
    lean, graphed = LeanNetwork(target_model), Replayed(target_model)
    for token in TOKENS * 3:
        torch.testing.assert_close(graphed.read([token]), lean.read([token]))
    assert graphed.captures == 3  # 8, 16, 32


def test_failed_capture_is_said_once_and_changes_nothing(target_model: PreTrainedModel) -> None:
    """Where there is no graph, users must learn why their drafter is slower than the card says."""
    graphed, lean = GraphedNetwork(copy.deepcopy(target_model)), LeanNetwork(target_model)
    graphed.read(TOKENS), lean.read(TOKENS)
    with pytest.warns(UserWarning, match="cannot be captured and is launched in pieces: .*cuda"):
        logits = graphed.read([12])
    torch.testing.assert_close(logits, lean.read([12]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(graphed.read([200]), lean.read([200]))
