"""The NVIDIA GPU of this machine, asked of its driver."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, …_MINOR


@functools.cache
def compute_capability() -> str:
    """Of the first GPU, as "sm89"; "" where there is no driver or no GPU."""
    if (opened := _open()) is None:
        return ""
    driver, device = opened
    major, minor = ctypes.c_int(), ctypes.c_int()
    for attribute, value in ((_MAJOR, major), (_MINOR, minor)):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return ""
    return f"sm{major.value}{minor.value}"


@functools.cache
def pci_bus_id() -> str:
    """Of the first GPU, as "0000:01:00.0"; "" where there is no driver or no GPU."""
    if (opened := _open()) is None:
        return ""
    driver, device = opened
    name = ctypes.create_string_buffer(32)
    return "" if driver.cuDeviceGetPCIBusId(name, len(name), device) else name.value.decode()


def _open() -> tuple[Any, ctypes.c_int] | None:
    """The driver and its first GPU."""
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return None if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) else (driver, device)
    except (OSError, AttributeError):
        return None
