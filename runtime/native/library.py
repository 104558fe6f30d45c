"""Loads the native library, once per process, where the installation could build it."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from ctypes import c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

ABI = 8  # of foveate.h
ISAS = ("best", "portable", "avx2", "avx512", "avx512_vnni")
SWITCH = "FOVEATE_NATIVE"  # in the environment: "0" runs without the library, a path takes another one
_LOG = logging.getLogger("foveate")

_ERROR = [c_char_p, c_int64]
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "fv_abi": (c_int32, []),
    "fv_cover": (c_int64, [c_void_p, c_int64, c_int64, c_double, c_void_p, c_void_p, c_int64]),
    "fv_isa": (c_char_p, [c_int32]),
    "fv_plan_open": (c_void_p, [c_void_p, c_int64, c_void_p, c_int64, c_int32, *_ERROR]),
    "fv_plan_close": (None, [c_void_p]),
    "fv_plan_ops": (c_int64, [c_void_p]),
    "fv_pool_open": (c_void_p, [c_int32]),
    "fv_pool_close": (None, [c_void_p]),
    "fv_compare": (c_int32, [c_void_p, *[c_void_p] * 2, *[c_int64] * 3, c_float, c_int64, *[c_void_p] * 2]),
    "fv_finite": (c_int32, [c_void_p, c_void_p, c_int64]),
    "fv_fill": (None, [c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "fv_accept": (None, [c_void_p, *[c_void_p] * 2, *[c_int64] * 3, c_void_p]),
    "fv_plan_bytes": (c_int64, [c_void_p, c_void_p, *_ERROR]),
    "fv_state_open": (c_void_p, [c_void_p, c_void_p, c_int64, *_ERROR]),
    "fv_state_close": (None, [c_void_p]),
    "fv_state_bytes": (c_int64, [c_void_p]),
    "fv_state_output": (None, [c_void_p, c_int64, c_void_p]),
    "fv_state_refer": (c_int32, [c_void_p, c_void_p, c_void_p, *_ERROR]),
    "fv_state_prepare": (c_int32, [c_void_p, c_void_p, c_void_p, *_ERROR]),
    "fv_state_follow": (c_int32, [c_void_p, c_void_p, c_void_p, *_ERROR]),
    "fv_state_advance": (
        c_int32,
        [c_void_p, c_void_p, c_int64, c_int64, c_int32, c_void_p, c_void_p, *_ERROR],
    ),
    "fv_state_tensor": (c_int32, [c_void_p, c_void_p, c_int64, c_void_p, c_void_p, *_ERROR]),
    "fv_state_run": (c_int32, [c_void_p, c_void_p, c_void_p, c_void_p, *_ERROR]),
    "fv_state_limit": (c_int32, [c_void_p, c_void_p, *_ERROR]),
    "fv_state_uses": (None, [c_void_p, c_void_p]),
    "fv_state_rms": (c_int32, [c_void_p, c_void_p, c_void_p, *_ERROR]),
    "fv_state_work": (c_double, [c_void_p]),
    "fv_state_memory": (c_int64, [c_void_p]),
    "fv_state_save": (None, [c_void_p, c_void_p]),
    "fv_state_load": (c_int32, [c_void_p, c_void_p, c_void_p, c_void_p, *_ERROR]),
    "fv_state_restore": (c_int32, [c_void_p, c_void_p, c_void_p, *_ERROR]),
}


def path() -> Path:
    """Where the library is: where the installation puts it, unless the environment says otherwise."""
    if os.environ.get(SWITCH):
        return Path(os.environ[SWITCH])
    names = {"win32": "libfoveate.dll", "darwin": "libfoveate.dylib"}
    return Path(__file__).with_name(names.get(sys.platform, "libfoveate.so.1"))


def library() -> ctypes.CDLL | None:
    """The library, or None where it was not built, is of another version, or is switched off."""
    return _load()[0]


def why_missing() -> str:
    """Why `library` gives None; empty where it does not."""
    return _load()[1]


def native_isa(isa: str = "best") -> str:
    """The instruction set that the kernels would use for `isa`, one of ISAS; empty where they cannot."""
    native = library()
    name = native.fv_isa(ISAS.index(isa)) if native is not None else None
    return name.decode() if name else ""


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(SWITCH) == "0":
        return None, f"switched off by {SWITCH}=0"
    if not path().is_file():
        return None, "not built: the installation found no C++ compiler"
    try:
        found = ctypes.CDLL(str(path()))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
        version = found.fv_abi()
    except (OSError, AttributeError) as error:
        return _refuse(f"{path()} cannot be loaded: {error}")
    if version != ABI:
        return _refuse(f"{path()} has ABI {version}, expected {ABI}")
    return found, ""


def _refuse(reason: str) -> tuple[None, str]:
    _LOG.warning(
        "native kernels are off: %s. Install foveate again: pip install --force-reinstall foveate", reason
    )
    return None, reason
