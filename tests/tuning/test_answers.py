"""What is counted on and tuned on: a distillation's answers, and more text for tables."""

from pathlib import Path

import numpy as np
import pytest

from drafter_trainer.corpora.decontamination import OVERLAP
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.tuning.answers import apart_from, load_answers
from drafter_trainer.tuning.calibration import HeldOut


def test_folder_without_answers_is_refused(target: Target, tmp_path: Path) -> None:
    """Settings that were tuned on nothing would look tuned."""
    with pytest.raises(InputError, match=r"has 0 answers and 0 held-out greedy ones .*: distil with temperatures 0"):
        load_answers(tmp_path, target, 10)


def test_texts_that_hold_a_held_out_completion_are_not_counted() -> None:
    """Prevent a table from knowing by heart what settings are tried on, as part of a longer completion."""
    sentence = list(range(20, 40))
    nothing = np.zeros((20, 1))
    held_out = HeldOut([1, 2], sentence, 64, 0.0, nothing, nothing)
    part, other = [5, 6, *sentence[:OVERLAP], 7], [5, 6, *sentence[: OVERLAP - 1], 7]
    assert apart_from([sentence, part, other, [3]], [held_out]) == [other, [3]]
