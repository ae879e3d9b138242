"""Calibration on completions with known acceptance, and the completions on which settings are tried."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drafter_trainer.corpora.decontamination import OVERLAP
from drafter_trainer.drafters.loop.settings import NETWORK_BINS, NGRAM_BINS, default_calibration
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.tuning.calibration import calibrate
from drafter_trainer.tuning.completions import HeldOut, load_completions, without_held_out
from tests.drafters.loop.conftest import FakeNetwork

SURE = NETWORK_BINS - 1  # bin of a network that gives one token nearly all probability


def completion_of(
    response: list[int], temperature: float = 0.0, chances: list[dict[int, float]] | None = None
) -> HeldOut:
    chances = chances or [{token: 1.0} for token in response]
    size = max(map(len, chances))
    padded = [list(entry.items()) + [(0, 1e-9)] * (size - len(entry)) for entry in chances]
    ids = np.array([[token for token, _ in entry] for entry in padded], dtype=np.int32)
    logprobs = np.log(np.array([[share for _, share in entry] for entry in padded], dtype=np.float32))
    return HeldOut([1, 2], response, 128, temperature, ids, logprobs)


def leaned(accepted: float, count: int, share: float) -> float:
    """Return the value of a bin after some observations; the default counts like four more."""
    return (accepted + 4 * share) / (count + 4)


def test_network_is_trusted_as_often_as_it_was_right() -> None:
    """The network proposed two of the four tokens: a wrong bin or count misjudges every draft."""
    network = FakeNetwork(lambda known: known[-1] + 1)
    calibration = calibrate([completion_of([3, 4, 9, 7])], None, network)
    before = default_calibration()["network"]
    assert calibration["network"][SURE] == pytest.approx(leaned(2, 4, before[SURE]))
    assert calibration["network"][:SURE] == pytest.approx(before[:SURE])


def test_lookup_and_table_are_asked_at_every_token() -> None:
    """The bins must be those of the loop: length of the match, or order and share."""
    table = NgramTable(count_table([[2, 3], [2, 3], [2, 8]], (1,), min_share=0.0))
    calibration = calibrate([completion_of([1, 2, 3, 2, 9])], table, None)
    before = default_calibration()
    # "1" comes up again and is followed by 2; "1 2" was followed by 1, now by 3; "2" by 3, now by 9.
    assert calibration["lookup"][0] == pytest.approx(leaned(1, 2, before["lookup"][0]))
    assert calibration["lookup"][1] == pytest.approx(leaned(0, 1, before["lookup"][1]))
    # The table gives 3 after 2 a share of (2 - 1/2) / 3. It is asked after the prompt, after "1 2" and "3 2".
    place = int(0.5 * NGRAM_BINS)
    assert calibration["ngram"][place] == pytest.approx(leaned(1, 3, before["ngram"][place]))


def test_sampled_tokens_count_by_their_chance() -> None:
    """A token with q = 1 is accepted with p, one drawn from q with Σ min(p, q); the completion is only a sample."""
    chances = [{3: 0.5, 4: 0.3}, {4: 0.25, 5: 0.7}]
    calibration = calibrate([completion_of([4, 5], 1.0, chances)], None, Even(50, [3, 4]))
    # q gives 3 and 4 a half each: min(p, q) is 0.5 + 0.3, then 0.25.
    place = NETWORK_BINS // 2
    before = default_calibration()["network"][place]
    assert calibration["network"][place] == pytest.approx(leaned(0.8 + 0.25, 2, before), abs=1e-3)


class Even(FakeNetwork):
    """A network that is torn between some tokens."""

    def __init__(self, size: int, tokens: list[int]) -> None:
        super().__init__(lambda known: 0, size)
        self.tokens = tokens

    def read(self, token_ids: list[int]) -> torch.Tensor:
        logits = torch.full((self.size,), -30.0)
        logits[self.tokens] = 0.0
        return logits


def test_folder_without_completions_is_rejected(target: Target, tmp_path: Path) -> None:
    """Settings that were tuned on no completions would look tuned."""
    with pytest.raises(InputError, match=r"has 0 completions and 0 held-out greedy ones .*: distill with"):
        load_completions(tmp_path, target, 10)


def test_texts_with_a_held_out_completion_are_not_counted() -> None:
    """A table that was counted on a held-out completion, inside a longer one, would look better than it is."""
    sentence = list(range(20, 40))
    part, other = [5, 6, *sentence[:OVERLAP], 7], [5, 6, *sentence[: OVERLAP - 1], 7]
    assert without_held_out([sentence, part, other, [3]], [completion_of(sentence)]) == [other, [3]]
