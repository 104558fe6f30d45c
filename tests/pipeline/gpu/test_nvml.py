"""What NVML is asked and how its answers are read, with its module in the place of a driver's."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from foveate.pipeline.gpu import nvml as module
from foveate.pipeline.gpu.nvml import open_gpu


class NvmlError(Exception):
    pass


@pytest.fixture
def pynvml(monkeypatch):
    """A module with the names, units and constants of nvidia-ml-py."""

    def unsupported(handle):
        raise NvmlError("Not Supported")

    fake = SimpleNamespace(
        NVMLError=NvmlError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: f"handle of {bus}",
        nvmlDeviceGetName=lambda handle: f"GPU, {handle}",
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetMaxClockInfo=lambda handle, kind: {1: 2520, 2: 10501}[kind],
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 450_000,
        nvmlDeviceGetClockInfo=lambda handle, kind: {1: 2400, 2: 10000}[kind],
        nvmlDeviceGetTemperature=lambda handle, sensor: 61,
        nvmlDeviceGetPowerUsage=lambda handle: 312_500,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x4 | 0x20,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1_500,
        unsupported=unsupported,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(module, "pci_bus_id", lambda: "0000:01:00.0")
    return fake


def test_the_gpu_that_cuda_computes_on_is_asked_in_units_of_people(pynvml):
    gpu, why = open_gpu()
    assert gpu is not None and not why
    assert gpu.name == "GPU, handle of 0000:01:00.0"
    assert (gpu.driver, gpu.most_sm_mhz, gpu.most_watts, gpu.joules()) == ("580.1", 2520, 450, 1.5)
    state = gpu.state()
    assert (state.sm_mhz, state.memory_mhz, state.celsius, state.watts) == (2400, 10000, 61, 312.5)
    assert state.reasons == ("power cap", "software thermal slowdown")


def test_a_gpu_that_does_not_count_energy(pynvml):
    pynvml.nvmlDeviceGetTotalEnergyConsumption = pynvml.unsupported
    gpu, _ = open_gpu()
    assert gpu is not None and gpu.joules() is None


def test_why_there_is_none(pynvml, monkeypatch):
    pynvml.nvmlInit = lambda: pynvml.unsupported(None)
    assert open_gpu() == (None, "NVML does not answer (Not Supported)")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found, why = open_gpu()
    assert found is None and "gpu-bench" in why
    monkeypatch.setattr(module, "pci_bus_id", lambda: "")
    found, why = open_gpu()
    assert found is None and "no NVIDIA GPU" in why
