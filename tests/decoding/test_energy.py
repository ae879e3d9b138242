"""Energy counters, on made-up devices."""

import sys
import types
from pathlib import Path

import pytest
import torch

from drafter_trainer.decoding.energy import EnergyMeter

CPU = torch.device("cpu")


def set_counter(folder: Path, microjoules: int, limit: int = 1_000_000_000) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")


def test_packages_add_up_and_parts_do_not_count_twice(tmp_path: Path) -> None:
    """Counters of cores repeat those of their package, and every counter wraps around after minutes."""
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        set_counter(tmp_path / name, 5_000_000, limit=10_000_000)
    meter = EnergyMeter(CPU, tmp_path)
    meter.start()
    set_counter(tmp_path / "intel-rapl:0", 7_500_000)
    set_counter(tmp_path / "intel-rapl:1", 6_000_000)
    set_counter(tmp_path / "intel-rapl:0:0", 7_000_000)
    assert meter.stop() == pytest.approx(3.5)
    meter.start()
    set_counter(tmp_path / "intel-rapl:1", 2_000_000, limit=10_000_000)
    assert meter.stop() == pytest.approx(6.0)


def test_device_that_does_not_tell(tmp_path: Path) -> None:
    """Without counters a benchmark goes on, and claims no energy of 0."""
    for meter in (EnergyMeter(CPU, tmp_path), EnergyMeter(torch.device("meta"))):
        meter.start()
        assert meter.stop() is None


@pytest.mark.parametrize("supported", [True, False])
def test_accelerator_by_its_driver(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    """The driver counts in millijoules, and numbers devices otherwise than torch where some are hidden."""
    millijoules = iter([1_000, 1_000, 4_500])
    driver = types.ModuleType("pynvml")
    driver.NVMLError = type("NVMLError", (Exception,), {})

    def read(handle: str) -> int:
        assert handle == "handle of GPU-1234"
        if not supported:
            raise driver.NVMLError
        return next(millijoules)

    driver.nvmlInit = lambda: None
    driver.nvmlDeviceGetHandleByUUID = lambda uuid: f"handle of {uuid}"
    driver.nvmlDeviceGetTotalEnergyConsumption = read
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    properties = types.SimpleNamespace(uuid="1234")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    meter = EnergyMeter(torch.device("cuda", 0))
    meter.start()
    assert meter.stop() == (pytest.approx(3.5) if supported else None)
