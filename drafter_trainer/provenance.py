"""What stands beside every number: the command, the commit, the versions, the machine."""

import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from drafter_trainer.credentials import redact

_LIBRARIES = ("drafter_trainer", "torch", "transformers", "accelerate", "datasets", "huggingface_hub", "tokenizers")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def describe_device() -> dict[str, Any]:
    """Describe what computes: an accelerator with its driver's runtime, or the processor and its threads."""
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        if kind == "cuda":
            return {"type": kind, "name": torch.cuda.get_device_name(), "runtime": f"CUDA {torch.version.cuda}"}
        return {"type": kind, "name": kind, "runtime": ""}
    return {"type": "cpu", "name": _processor_name(), "runtime": f"{torch.get_num_threads()} threads"}


def collect_provenance() -> dict[str, Any]:
    """Collect the provenance of the running command.

    Returns:
        `dict` with `command` (absolute paths without their folders, which are nobody else's, and no credentials),
        `commit` (of a clone, with "+" behind it where files were changed; empty outside of one), `date` (UTC),
        `device` and `versions`.
    """
    return {
        "command": redact(shlex.join([Path(sys.argv[0]).name, *map(without_folders, sys.argv[1:])])),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": describe_device(),
        "versions": library_versions(),
    }


def without_folders(argument: str) -> str:
    """Return an argument of a command with the names alone of the absolute paths in it."""
    return re.sub(r"(^|[:=])/(?:[^/\s]+/)+", r"\1", argument)


def _commit() -> str:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
