"""Fixtures of tests of serving: servers that are ready soon, and fixtures of other tests."""

import time
from types import SimpleNamespace

import pytest

from drafter_trainer.serving import engines
from tests.drafters.loop.conftest import published  # noqa: F401
from tests.hub.test_export import gemma_gguf  # noqa: F401


@pytest.fixture(autouse=True)
def ready_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a server that starts more often whether it is ready."""
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: time.sleep(seconds / 20))
    monkeypatch.setattr(engines, "time", clock)
