"""Completions on which settings are tried and tables are counted."""

from pathlib import Path

import numpy as np
import pytest

from drafter_trainer.corpora.decontamination import OVERLAP
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.tuning.completions import HeldOut, load_completions, without_held_out


def test_folder_without_completions_is_rejected(target: Target, tmp_path: Path) -> None:
    """Settings that were tuned on no completions would look tuned."""
    with pytest.raises(InputError, match=r"has 0 completions and 0 held-out greedy ones .*: distill with"):
        load_completions(tmp_path, target, 10)


def test_texts_with_a_held_out_completion_are_not_counted() -> None:
    """A table that was counted on a held-out completion, inside a longer one, would look better than it is."""
    sentence = list(range(20, 40))
    nothing = np.zeros((20, 1))
    held_out = HeldOut([1, 2], sentence, 64, 0.0, nothing, nothing)
    part, other = [5, 6, *sentence[:OVERLAP], 7], [5, 6, *sentence[: OVERLAP - 1], 7]
    assert without_held_out([sentence, part, other, [3]], [held_out]) == [other, [3]]
