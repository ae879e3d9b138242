"""What the tests of serving share."""

import socket

import pytest

from tests.drafters.loop.conftest import published  # noqa: F401
from tests.hub.export.test_gguf_file import gemma_gguf  # noqa: F401


@pytest.fixture
def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
