"""The module of `evaluate`, loaded from its folder."""

from pathlib import Path

import evaluate
import pytest

from drafter_trainer.benchmark import acceptance as package
from drafter_trainer.decoding.metrics import Round, acceptance_by_position, acceptance_rate, alpha

FOLDER = str(Path(package.__file__).parent)
ROUNDS = [Round(4, 4, False), Round(4, 1, True), Round(4, 0, True), Round(0, 0, False)]
COLUMNS = {name: [getattr(round_, name) for round_ in ROUNDS] for name in ("drafted", "accepted", "rejected")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the files of `evaluate` out of the user's cache, and fail if it downloads something."""
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache" / "metrics"))
    monkeypatch.setattr("evaluate.loading.cached_path", None)


def test_metrics_are_the_packages_own() -> None:
    """Two definitions of one metric diverge."""
    found = evaluate.load(FOLDER, keep_in_memory=True).compute(**COLUMNS)
    assert found == {
        "acceptance_rate": acceptance_rate(ROUNDS),
        "alpha": alpha(ROUNDS),
        "mean_accepted_tokens": 9 / 4,  # five accepted tokens, and one of the target in each of four rounds
        "acceptance_by_position": acceptance_by_position(ROUNDS),
    }
    assert (found["acceptance_rate"], found["alpha"]) == (5 / 12, 5 / 7)
    assert found["acceptance_by_position"] == [0.5, 0.25, 0.25, 0.25]
