"""Run the real Hub client against the loopback Hub, in a process of its own: it reads its settings at import."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.loopback_hub import LoopbackHub

_CLIENT = """
import json, sys
from pathlib import Path

{source}
Path(sys.argv[1]).write_text(json.dumps({name}(**json.loads(sys.argv[2]))))
"""


def run_client(
    hub: LoopbackHub, home: Path, function: Callable[..., Any], token: str | None = None, **given: Any
) -> Any:
    """Run a self-contained function in a fresh process that knows only this Hub; return its result, by way of JSON."""
    script = _CLIENT.format(source=inspect.getsource(function), name=function.__name__)
    result = home / "result.json"
    home.mkdir(exist_ok=True)
    # A developer's own token, cache or proxy must not reach the test.
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and not k.lower().endswith("_proxy")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", **hub.environment(home, token)}
    command = [sys.executable, "-c", script, str(result), json.dumps(given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(result.read_text())
