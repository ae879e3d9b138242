"""The provenance of a measured number: the command, the commit, the versions, the machine."""

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
    """Return the versions of Python and of the libraries that affect a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def describe_device() -> dict[str, Any]:
    """Return type, name and runtime of the accelerator, or of the processor without one."""
    if not torch.accelerator.is_available():
        cpuinfo = Path("/proc/cpuinfo")
        named = re.search(r"(?m)^model name\s*: (.+)$", cpuinfo.read_text()) if cpuinfo.is_file() else None
        name = named[1].strip() if named else platform.processor() or platform.machine()
        return {"type": "cpu", "name": name, "runtime": f"{torch.get_num_threads()} threads"}
    kind = torch.accelerator.current_accelerator().type
    if kind == "cuda":
        return {"type": kind, "name": torch.cuda.get_device_name(), "runtime": f"CUDA {torch.version.cuda}"}
    return {"type": kind, "name": kind, "runtime": ""}


def collect_provenance() -> dict[str, Any]:
    """Return the provenance of the running command.

    Returns:
        `dict` with `command` (without the folders of absolute paths, and without credentials), `commit` (of a clone;
        "+" is appended if files were changed; empty outside a clone), `date` (UTC), `device` and `versions`.
    """
    return {
        "command": redact(shlex.join([Path(sys.argv[0]).name, *map(without_folders, sys.argv[1:])])),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": describe_device(),
        "versions": library_versions(),
    }


def without_folders(argument: str) -> str:
    """Return an argument of a command with each absolute path reduced to its last part."""
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
