"""What tuning leaves for other tunings."""

from pathlib import Path

import pytest

from drafter_trainer.decoding.replay import Costs
from drafter_trainer.errors import InputError
from drafter_trainer.tuning.results import read_costs, write_costs

COSTS = Costs(10.0, 20.0, [10.0, 11.0, 12.0], [13.0, 14.0, 15.0], 0.0)


def test_times_are_taken_over_as_far_as_they_are_needed(tmp_path: Path) -> None:
    """A curve that is longer than the drafts that are tried would let longer ones be tried."""
    write_costs(tmp_path, COSTS)
    assert read_costs(tmp_path, 2) == COSTS
    shorter = read_costs(tmp_path, 1)
    assert (shorter.passes, shorter.sampling_passes, shorter.plain) == ([10.0, 11.0], [13.0, 14.0], 10.0)


def test_times_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    """What was not timed has no price."""
    with pytest.raises(InputError, match=r"has no costs.json: name the folder of a tuning"):
        read_costs(tmp_path, 1)
    write_costs(tmp_path, COSTS)
    with pytest.raises(InputError, match="drafts of up to 2 tokens: give longest_draft 2, or measure again"):
        read_costs(tmp_path, 3)
    path = tmp_path / "costs.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace("10.0", "9.0", 1).replace("10.0", "8.0"), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"costs.json: one token .* takes 9\.0 ms and a pass .* 8\.0 ms"):
        read_costs(tmp_path, 2)
