"""Fixtures of other tests that these use."""

from tests.drafters.loop.conftest import published  # noqa: F401
