"""Fixtures of other tests that serving uses."""

from tests.drafters.loop.conftest import published  # noqa: F401
from tests.hub.export.test_gguf_file import gemma_gguf  # noqa: F401
