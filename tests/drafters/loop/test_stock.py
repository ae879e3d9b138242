"""The stock network: what the lean one does, for every family."""

import copy

import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.repository import build_network
from drafter_trainer.drafters.loop.stock import StockNetwork
from tests.decoding.drafts import sliding_model
from tests.drafters.loop.conftest import SLIDING
from tests.drafters.loop.test_network import CONFIGS, STEPS, TOKENS, check_reads, make

SLIDING_TOKENS = [token % 50 for token in TOKENS]
# Beyond the window of six; drafts that are rejected in part or whole, always cropped once between two reads
SLIDING_STEPS = [
    (0, SLIDING_TOKENS[:10]),
    (10, [11]),
    (11, [12]),
    (12, [13]),
    (11, [14, 15]),
    (13, [16]),
    (13, [17]),
    (0, SLIDING_TOKENS[:4]),
    (4, [1]),
    (3, [2, 3]),
    (0, SLIDING_TOKENS[2:14]),
]


@pytest.fixture(scope="module")
def sliding() -> PreTrainedModel:
    """A tiny Gemma 3."""
    return sliding_model(50, SLIDING)


def test_stock_reads_like_the_lean_network() -> None:
    """The loop knows one interface: a network that counts or crops another way reads tokens twice or not at all."""
    model = make(CONFIGS["llama"])
    check_reads(StockNetwork(model), model, STEPS)
    check_reads(StockNetwork(model, torch.tensor([0, 3, 68])), model, STEPS)


def test_sliding_window_gives_back_what_a_draft_pushed_out(sliding: PreTrainedModel) -> None:
    """A cache that holds a window alone has forgotten what comes back into it when a draft is rejected."""
    check_reads(StockNetwork(sliding), sliding, SLIDING_STEPS)
    check_reads(StockNetwork(sliding, torch.tensor([7, 8, 49])), sliding, SLIDING_STEPS)


def test_network_is_lean_where_it_can_be(sliding: PreTrainedModel, recwarn: pytest.WarningsRecorder) -> None:
    """A drafter that drafts slowly must say why; one that drafts lean must not warn at each start."""
    model = make(CONFIGS["mistral"])
    ids = torch.tensor([4, 5])
    lean = build_network(model, ids, int8=False)
    assert isinstance(lean, LeanNetwork)
    assert torch.equal(lean.draft_ids, ids)
    assert torch.equal(lean.read(TOKENS), LeanNetwork(model, ids).read(TOKENS))
    rounded = build_network(model, None, int8=True)
    assert torch.equal(rounded.read(TOKENS), LeanNetwork(model, int8=True).read(TOKENS))
    assert [str(warning.message) for warning in recwarn] == []
    capped = copy.deepcopy(sliding)
    capped.config.final_logit_softcapping = 30.0
    with pytest.warns(UserWarning, match="drafts through its stock modules: its logits are capped"):
        network = build_network(capped, ids, int8=True)
    assert isinstance(network, StockNetwork)
    assert torch.equal(network.draft_ids, ids)
