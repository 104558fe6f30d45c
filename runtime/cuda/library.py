"""Loads the library of CUDA kernels, once per process, where the installation could build it. Loading it needs neither
a GPU nor its driver; running a kernel does."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from ctypes import c_char_p, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, ClassVar

ABI = 1  # of foveate_cuda.h
SWITCH = "FOVEATE_CUDA"  # in the environment: "0" runs without the library, a path takes another one
_LOG = logging.getLogger("foveate")

Pair = c_int32 * 2


class Reach(ctypes.Structure):
    _fields_: ClassVar = [("source", c_void_p), *[(n, Pair) for n in ("size", "num", "den", "low", "high")]]


class TileMap(ctypes.Structure):
    _fields_: ClassVar = [("map", c_void_p), ("size", Pair), ("positions", Pair)]


class TileGrid(ctypes.Structure):
    _fields_: ClassVar = [(name, Pair) for name in ("cells", "tile", "low", "high")]


class Tiles(ctypes.Structure):
    _fields_: ClassVar = [("places", c_void_p), ("count", c_void_p), ("grid", TileGrid)]


class Tensor(ctypes.Structure):
    _fields_: ClassVar = [
        ("data", c_void_p),
        *[("batch", c_int64), ("channels", c_int64)],
        *[("size", Pair), ("positions", Pair)],
        ("element_bytes", c_int32),
    ]


class EnergyMask(ctypes.Structure):
    _fields_: ClassVar = [
        ("x", c_void_p),
        *[(name, c_void_p) for name in ("weight", "bias", "threshold", "temperature", "lam", "gamma")],
        *[(name, c_void_p) for name in ("keep", "logits", "energy")],
        *[("batch", c_int64), ("channels", c_int64), ("size", Pair)],
        *[("patch", c_int32), ("soft", c_int32), ("element_bytes", c_int32)],
        *[("map", c_void_p), ("grid", ctypes.POINTER(TileGrid)), ("positions", Pair)],
        *[("places", c_void_p), ("count", c_void_p), ("scratch", c_void_p)],
    ]


class Deformable(ctypes.Structure):
    _fields_: ClassVar = [
        *[(name, c_void_p) for name in ("value", "sizes", "locations", "weights", "read")],
        *[(n, c_int64) for n in ("batch", "tokens", "heads", "channels", "queries", "levels", "points")],
        ("element_bytes", c_int32),
    ]


_P, _N, _I = c_void_p, c_int64, c_int32
GRID, _TENSOR, _TILES = (ctypes.POINTER(kind) for kind in (TileGrid, Tensor, Tiles))
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "fv_cuda_abi": (_I, []),
    "fv_cuda_error": (c_char_p, [_I]),
    "fv_cuda_take_rows": (_I, [_P, _P, _P, _N, _N, _P]),
    "fv_cuda_put_rows": (_I, [_P, _P, _P, _N, _N, _P]),
    "fv_cuda_repeat": (_I, [_P, _P, _N, _N, _P]),
    "fv_cuda_support": (_I, [_P, _P, _I, _I, _N, _N, _N, _P]),
    "fv_cuda_tally": (_I, [_P, _P, _I, _I, _N, _N, _P]),
    "fv_cuda_reach": (_I, [_P, Pair, _N, ctypes.POINTER(Reach), _I, _P]),
    "fv_cuda_scratch_bytes": (_N, [_N, GRID]),
    "fv_cuda_find_tiles": (_I, [_P, _P, _P, GRID, _N, ctypes.POINTER(TileMap), _I, _P]),
    "fv_cuda_take_windows": (_I, [_P, _TENSOR, _TILES, _N, _N, _P]),
    "fv_cuda_put_windows": (_I, [_TENSOR, _P, _TILES, _N, _N, _P]),
    "fv_cuda_restore_tiles": (_I, [_TENSOR, _P, _TILES, _N, _P]),
    "fv_cuda_energy_mask": (_I, [ctypes.POINTER(EnergyMask), _P]),
    "fv_cuda_deformable_sample": (_I, [ctypes.POINTER(Deformable), _P]),
}


def path() -> Path:
    """Where the library is: where the installation puts it, unless the environment says otherwise."""
    if os.environ.get(SWITCH):
        return Path(os.environ[SWITCH])
    return Path(__file__).with_name(f"libfoveate_cuda{'.dll' if sys.platform == 'win32' else '.so.1'}")


def library() -> ctypes.CDLL | None:
    """The library, or None where it was not built, is of another version, or is switched off."""
    return _load()[0]


def why_missing() -> str:
    """Why `library` gives None; empty where it does not."""
    return _load()[1]


def open_library(path: Path) -> ctypes.CDLL:
    """Raises OSError, AttributeError where it is another library or cannot be loaded."""
    found = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    if (version := found.fv_cuda_abi()) != ABI:
        raise OSError(f"its ABI is {version}, expected {ABI}")
    return found


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(SWITCH) == "0":
        return None, f"switched off by {SWITCH}=0"
    if not path().is_file():
        return None, "not built: the installation found no nvcc of CUDA 12 or newer"
    try:
        return open_library(path()), ""
    except (OSError, AttributeError) as error:
        reason = f"{path()} cannot be loaded: {error}"
        _LOG.warning("CUDA kernels are off: %s. Install again: pip install --force-reinstall foveate", reason)
        return None, reason
