"""Run the real Hub client against the loopback Hub, in a process of its own: it reads its settings at import."""

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.loopback_hub import LoopbackHub
from tests.processes import Running, run_source


def run_client(
    hub: LoopbackHub, home: Path, function: Callable[..., Any], token: str | None = None, **given: Any
) -> Any:
    """Run a self-contained function in a fresh process that knows only this Hub; return its result, by way of JSON."""
    home.mkdir(exist_ok=True)
    # A developer's own token, cache or proxy must not reach the test.
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and not k.lower().endswith("_proxy")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", **hub.environment(home, token)}
    source = inspect.getsource(function)
    running = Running(run_source, source, function.__name__, json.dumps(given), environment=environment)
    return json.loads(running.result())
