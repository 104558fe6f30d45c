"""The NVIDIA GPU of this machine, asked of its driver."""

from __future__ import annotations

import ctypes
import functools
import sys

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, …_MINOR


@functools.cache
def compute_capability() -> str:
    """Of the first GPU, as "sm89"; "" where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuInit(0):
            return ""
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        failed = driver.cuDeviceGet(ctypes.byref(device), 0)
        for attribute, value in ((_MAJOR, major), (_MINOR, minor)):
            failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    except (OSError, AttributeError):
        return ""
    return "" if failed else f"sm{major.value}{minor.value}"
