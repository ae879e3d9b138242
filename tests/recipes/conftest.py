"""Measurements that take as little time as they can: no test of the recipes reads a figure of them."""

from collections.abc import Iterator

import pytest

from drafter_trainer.benchmark import page
from drafter_trainer.tuning import costs, search


@pytest.fixture(scope="module", autouse=True)
def short_measurements() -> Iterator[None]:
    """Measure each time once, and leave the plots of reports to the tests of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "_ATTEMPTS", 1)
        patch.setattr(search, "_STEP_REPEATS", 1)
        patch.setattr(page, "_draw", lambda run: {})
        yield
