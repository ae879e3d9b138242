"""The draft vocabulary: counted, chosen, written."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafter_trainer.drafters.loop.build import read_vocabulary
from drafter_trainer.drafters.vocabulary import choose_ids, coverage, map_ids, prune_head, vocabulary_bytes

COUNTS = np.array([0, 5, 2, 0, 9, 2, 1, 0])


@pytest.mark.parametrize(
    ("size", "always", "given", "expected"),
    [
        (2, [], {}, [1, 4]),
        (3, [], {}, [1, 2, 4]),  # of equals the lower id
        (8, [], {}, [1, 2, 4, 5, 6]),  # what never occurred is no help
        (3, [0], {}, [0, 1, 4]),  # counts towards the size
        (3, [4, 4], {}, [1, 2, 4]),  # one that is frequent anyway takes no other's place
        (2, [4, 1, 0], {}, [0, 1, 4]),  # chosen even beyond the size
        (0, [7], {}, [7]),
        # A hundred completions have two thousand ids: a story in another language could not be drafted at all.
        (7, [6], {"fill": True}, [0, 1, 2, 3, 4, 5, 6]),
        (3, [], {"fill": True}, [1, 2, 4]),
    ],
)
def test_most_frequent_ids_are_chosen(size: int, always: list[int], given: dict, expected: list[int]) -> None:
    """A vocabulary without the end of a text can never draft it."""
    ids = choose_ids(COUNTS, size, always, **given)
    assert ids.dtype == torch.int64
    assert ids.tolist() == expected
    assert choose_ids(np.zeros(8, np.int64), 3, [7], fill=True).tolist() == [0, 1, 7]


def test_coverage_is_a_share_of_tokens() -> None:
    """Counted over ids instead of tokens, a good vocabulary would look poor."""
    assert coverage(torch.tensor([1, 4]), COUNTS) == pytest.approx(14 / 19)
    assert coverage(torch.arange(8), COUNTS) == 1.0
    assert coverage(torch.tensor([3]), np.zeros(8, np.int64)) == 0.0


@pytest.mark.parametrize(
    ("ids", "vocabulary"), [([1, 2, 8], 8), ([-1, 2], 8), ([2, 1], 8), ([1, 1, 2], 8), ([], 8), ([[1, 2]], 8)]
)
def test_ids_that_do_not_fit_are_rejected(tmp_path: Path, ids: list, vocabulary: int) -> None:
    """Ids beyond the head fail within a kernel; unordered or doubled ones draft other tokens than were meant."""
    path = tmp_path / "draft_vocabulary.safetensors"
    path.write_bytes(vocabulary_bytes(torch.tensor(ids, dtype=torch.int64)))
    with pytest.raises(ValueError, match="has no ascending ids below 8: it is for another tokenizer"):
        read_vocabulary(path, vocabulary)


def test_prune_head_computes_the_same_logits_and_no_others(target_model: PreTrainedModel) -> None:
    """Training over the draft vocabulary is training the rows that are drafted with, and keeping no others."""
    ids, inputs = torch.tensor([3, 7, 50, 399]), torch.tensor([[5, 6, 7]])
    whole = target_model(inputs).logits
    prune_head(target_model, ids)
    narrow = target_model(inputs).logits
    torch.testing.assert_close(narrow, whole[..., ids])
    narrow.sum().backward()
    gradient = target_model.get_output_embeddings().weight.grad
    assert gradient.shape == (4, target_model.config.hidden_size)
    assert gradient.abs().sum(dim=1).min() > 0
    # What is read keeps all its rows.
    assert target_model.get_input_embeddings().weight.shape[0] == whole.shape[-1]


@pytest.mark.parametrize("tied", [True, False])
def test_frozen_head_is_saved_as_it_was(tmp_path: Path, target_model: PreTrainedModel, tied: bool) -> None:
    """A drafter trained between frozen embeddings is stored with two copies of them, or loses rows of its head."""
    config = copy.deepcopy(target_model.config)
    config.tie_word_embeddings = tied
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    ids, inputs = torch.tensor([3, 7]), torch.tensor([[5, 6]])
    whole, parameters = model(inputs).logits, model.num_parameters()
    prune_head(model, ids)
    assert not model.get_output_embeddings().weight.requires_grad
    model.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(stock(inputs).logits, whole)
    assert stock.config.tie_word_embeddings == tied
    assert stock.num_parameters() == parameters
    assert model.load_state_dict(stock.state_dict()).missing_keys == []
    torch.testing.assert_close(model(inputs).logits, whole[..., ids])


def test_rows_outside_never_win(tmp_path: Path, target_model: PreTrainedModel) -> None:
    """Their logit is the mean of the others', so the stock model drafts what the loop drafts."""
    ids, inputs = torch.arange(0, 400, 3), torch.randint(0, 400, (4, 32), generator=torch.Generator().manual_seed(0))
    prune_head(target_model, ids)
    narrow = target_model(inputs).logits
    target_model.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    whole = stock(inputs).logits
    torch.testing.assert_close(whole[..., ids], narrow)
    assert torch.equal(whole.argmax(-1), ids[narrow.argmax(-1)])
    outside = torch.ones(400, dtype=torch.bool).index_fill(0, ids, False)
    torch.testing.assert_close(whole[..., outside], narrow.mean(-1, keepdim=True).expand_as(whole[..., outside]))
    # A checkpoint goes on from what was saved.
    with torch.no_grad():
        target_model.get_output_embeddings().weight.zero_()
    target_model.load_state_dict(stock.state_dict())
    torch.testing.assert_close(target_model(inputs).logits, narrow)


def test_ids_become_places() -> None:
    """What the draft vocabulary lacks is -1, also beyond its ends."""
    draft_ids = torch.tensor([2, 5, 9])
    places = map_ids(torch.tensor([[0, 2, 3], [5, 9, 11]]), draft_ids)
    assert places.tolist() == [[-1, 0, -1], [1, 2, -1]]
