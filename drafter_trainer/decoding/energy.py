"""What energy a decoding takes, where the device tells."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """A device's own energy counter, read before and after.

    A processor's stands in Linux' powercap folder (Intel and AMD; often readable for root alone) and covers all its
    packages, whatever else runs on them. An NVIDIA accelerator's comes from its driver, through the package
    nvidia-ml-py if that is installed; it is renewed some ten times a second, so that short answers are told coarsely.
    """

    def __init__(self, device: torch.device, powercap: Path = _POWERCAP) -> None:
        self._counters: list[tuple[Callable[[], float], float]] = []  # joules, and where they begin anew
        if device.type == "cpu":
            self._counters = [_package(folder) for folder in sorted(powercap.glob("intel-rapl:*")) if _tells(folder)]
        elif device.type == "cuda":
            self._counters = [(counter, math.inf) for counter in _accelerator(device)]

    def start(self) -> None:
        self._before = [read() for read, _ in self._counters]

    def stop(self) -> float | None:
        """Return the joules since `start`, or `None` where the device does not tell."""
        used = [(read() - before) % limit for (read, limit), before in zip(self._counters, self._before)]
        return sum(used) if used else None


def _tells(folder: Path) -> bool:
    # intel-rapl:0 is a package, intel-rapl:0:0 a part of it that would be counted twice.
    return folder.name.count(":") == 1 and os.access(folder / "energy_uj", os.R_OK)


def _package(folder: Path) -> tuple[Callable[[], float], float]:
    limit = int((folder / "max_energy_range_uj").read_text()) / 1e6
    return lambda: int((folder / "energy_uj").read_text()) / 1e6, limit


def _accelerator(device: torch.device) -> list[Callable[[], float]]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # older than Volta, or a part of a shared card
        return []
    return [lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3]
