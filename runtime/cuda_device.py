"""The NVIDIA GPU of this machine, asked of its driver."""

from __future__ import annotations

import ctypes
import functools

from .device.driver import compute_of, find_gpu, open_driver
from .errors import EngineError


@functools.cache
def compute_capability() -> str:
    """Of the first GPU, as "sm89"; "" where there is no driver or no GPU."""
    try:
        driver = open_driver()
        return compute_of(driver, find_gpu(driver))
    except EngineError:
        return ""


@functools.cache
def pci_bus_id() -> str:
    """Of the first GPU, as "0000:01:00.0"; "" where there is no driver or no GPU."""
    name = ctypes.create_string_buffer(32)
    try:
        driver = open_driver()
        driver.cuDeviceGetPCIBusId(name, len(name), find_gpu(driver))
    except EngineError:
        return ""
    return name.value.decode()
