"""Fixtures of other tests that serving uses."""

from tests.drafters.loop.conftest import published  # noqa: F401
from tests.hub.test_export import gemma_gguf  # noqa: F401
