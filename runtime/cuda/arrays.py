"""Arrays in a GPU's memory, whoever's they are: where their numbers begin, their shape and dtype."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError

DEVICES = {2, 13}  # of DLPack: CUDA memory, and managed
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # of DLPack's types, those that numpy has


@dataclass(frozen=True)
class View:
    """A C-contiguous array; `owner` keeps it alive."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Any

    @property
    def row_bytes(self) -> int:
        """Of an entry along the first axis."""
        return prod(self.shape[1:]) * self.dtype.itemsize


def view(array: Any, what: str) -> View:
    """Of an array of Foveate's devices, one with `__cuda_array_interface__` (torch, CuPy, Numba) or one with DLPack
    (JAX and others). Raises InputError, in which the array is called `what`."""
    if hasattr(array, "pointer"):
        return View(array.pointer, tuple(array.shape), np.dtype(array.dtype), array)
    facts = getattr(
        array, "__cuda_array_interface__", None
    )  # torch raises AttributeError for a tensor on the CPU
    if facts is not None:
        made = View(int(facts["data"][0] or 0), tuple(facts["shape"]), np.dtype(facts["typestr"]), array)
        strides = facts.get("strides")
    elif hasattr(array, "__dlpack__"):
        made, strides = _from_dlpack(array, what)
    else:
        raise InputError(
            what,
            got=type(array).__name__,
            expected="an array on a GPU, with __cuda_array_interface__ or __dlpack__",
            fix="Pass a CUDA tensor of torch, or an array of CuPy.",
        )
    if strides is not None and not _contiguous(made.shape, tuple(strides), made.dtype.itemsize):
        raise InputError(
            what,
            got=f"strides {tuple(strides)} for shape {made.shape}",
            expected="a C-contiguous array",
            fix="Pass a copy: tensor.contiguous(), or cupy.ascontiguousarray(array).",
        )
    return made


def stream_pointer(stream: Any) -> int:
    """Of an integer, a stream of torch or CuPy, or None: the default stream."""
    if stream is None:
        return 0
    for name in ("cuda_stream", "ptr"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    return int(stream)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    step = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step and prod(shape):
            return False
        step *= size
    return True


class _DLTensor(ctypes.Structure):
    """The begin of a capsule named "dltensor", as DLPack lays it out."""

    _fields_: ClassVar = [
        ("data", c_void_p),
        *[("device_type", c_int32), ("device_id", c_int32)],
        ("ndim", c_int32),
        *[("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)],
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


def _from_dlpack(array: Any, what: str) -> tuple[View, tuple[int, ...] | None]:
    """And its strides in bytes. The capsule is not consumed: it keeps its array as long as the view does."""
    capsule = array.__dlpack__()
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(get(capsule, b"dltensor") or 0)
    if tensor.device_type not in DEVICES or tensor.lanes != 1 or tensor.code not in _KINDS:
        raise InputError(
            what,
            got=f"DLPack device type {tensor.device_type}, type code {tensor.code} of {tensor.bits} bits",
            expected="numbers in CUDA memory, of a type that numpy has",
            fix="Move it there first: tensor.cuda(), or cupy.asarray(array).",
        )
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(s * dtype.itemsize for s in tensor.strides[: tensor.ndim]) if tensor.strides else None
    return View((tensor.data or 0) + tensor.byte_offset, shape, dtype, (array, capsule)), strides
