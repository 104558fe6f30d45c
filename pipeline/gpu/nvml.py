"""What NVML tells of a GPU: clocks, temperature, power, energy, and why its clocks are lower than they could be."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

from ...runtime.cuda_device import pci_bus_id

# Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML API reference, "Clocks event reasons").
REASONS = {
    0x1: "idle",
    0x2: "applications clocks setting",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clock setting",
}


@dataclass(frozen=True)
class GpuState:
    """Clocks in MHz; `reasons` why they are not higher, in REASONS' words."""

    sm_mhz: float
    memory_mhz: float
    celsius: float
    watts: float
    reasons: tuple[str, ...]


class Gpu(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def driver(self) -> str: ...
    @property
    def most_sm_mhz(self) -> float: ...
    @property
    def most_watts(self) -> float:
        """The limit that is enforced."""
        ...

    def state(self) -> GpuState: ...

    def joules(self) -> float | None:
        """All that it took since its driver was loaded; None where it does not count (before Volta)."""
        ...


class NvmlGpu:
    """The GPU on which CUDA computes first, whatever CUDA_VISIBLE_DEVICES makes of the order."""

    def __init__(self, nvml: Any, bus_id: str):
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = handle = nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        self.name: str = nvml.nvmlDeviceGetName(handle)
        self.driver: str = nvml.nvmlSystemGetDriverVersion()
        self.most_sm_mhz = float(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
        self.most_watts = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3

    def state(self) -> GpuState:
        nvml, handle = self._nvml, self._handle
        bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return GpuState(
            float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            tuple(word for bit, word in REASONS.items() if bits & bit),
        )

    def joules(self) -> float | None:
        try:
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
        except self._nvml.NVMLError:
            return None


def open_gpu() -> tuple[Gpu | None, str]:
    """The GPU, or None and why its state is not known."""
    bus_id = pci_bus_id()
    if not bus_id:
        return None, "this machine has no NVIDIA GPU, or no driver for it"
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None, "nvidia-ml-py is not installed (pip install 'foveate[gpu-bench]')"
    try:
        return NvmlGpu(pynvml, bus_id), ""
    except pynvml.NVMLError as error:
        return None, f"NVML does not answer ({error})"
