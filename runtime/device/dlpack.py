"""DLPack by ctypes: how array libraries hand each other memory without a copy (the layout before version 1, which all
of them read). See dmlc.github.io/dlpack."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p, py_object
from dataclasses import dataclass
from typing import Any

import numpy as np

CUDA = 2  # kDLCUDA
_FRESH, _USED = b"dltensor", b"used_dltensor"
_KINDS = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}  # numpy's kind -> DLDataTypeCode


class _Tensor(ctypes.Structure):
    """DLTensor; strides count elements."""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p))


_Deleter = ctypes.CFUNCTYPE(None, c_void_p)
_python = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", _python))
_pointer = ctypes.PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", _python))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, py_object, c_char_p)(("PyCapsule_SetName", _python))
# Of a capsule that is about to end, which no reference may be taken to.
_Ending = ctypes.PYFUNCTYPE(None, c_void_p)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", _python))
_ending_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", _python))

_lent: dict[int, tuple[Any, ...]] = {}  # by the address of the struct: what has to live as long as it


def export(
    pointer: int, shape: tuple[int, ...], dtype: np.dtype, device: tuple[int, int], done: Callable[[], None]
) -> Any:
    """A capsule of C-contiguous memory of a device: its DLDeviceType and number. `done` is called, by any thread, when
    whoever took it does not need it any more, or nobody did."""
    sizes = (c_int64 * max(1, len(shape)))(*shape)
    steps = (c_int64 * max(1, len(shape)))(*(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))
    kind = _KINDS[dtype.kind], 8 * dtype.itemsize, 1
    tensor = _Tensor(pointer, *device, len(shape), *kind, sizes, steps, 0)
    managed = _Managed(tensor, None, ctypes.cast(_delete, c_void_p))
    address = ctypes.addressof(managed)
    _lent[address] = managed, sizes, steps, done
    return _new(address, _FRESH, ctypes.cast(_end, c_void_p))


@_Deleter
def _delete(address: int) -> None:
    _lent.pop(address)[-1]()


@_Ending
def _end(capsule: int) -> None:
    """Whoever takes a capsule renames it, and calls the deleter."""
    if _is_valid(capsule, _FRESH):
        _delete(_ending_pointer(capsule, _FRESH))


@dataclass(frozen=True)
class Taken:
    """What a capsule held. `release` gives it back to who made it."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    contiguous: bool
    release: Callable[[], None]


def take(capsule: Any) -> Taken:
    """Takes the memory of a capsule. Raises TypeError for a dtype that numpy has not; it is given back then."""
    address = _pointer(capsule, _FRESH)
    managed = _Managed.from_address(address)
    _rename(capsule, _USED)  # the name must outlive the capsule: a constant of this module does
    deleter = _Deleter(managed.deleter) if managed.deleter else None

    def release() -> None:
        if deleter is not None:
            deleter(address)

    tensor = managed.tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    steps = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    kinds = {code: kind for kind, code in _KINDS.items()}
    if tensor.code not in kinds or tensor.lanes != 1:
        release()
        raise TypeError(f"DLPack type {tensor.code} of {tensor.bits} bits")
    dtype = (
        np.dtype("?") if kinds[tensor.code] == "b" else np.dtype(f"{kinds[tensor.code]}{tensor.bits // 8}")
    )
    return Taken((tensor.data or 0) + tensor.byte_offset, shape, dtype, is_contiguous(shape, steps), release)


def is_contiguous(shape: tuple[int, ...], steps: tuple[int, ...] | None) -> bool:
    """Whether an array lies in C order; steps in elements, None if it does. Those of axes of size 1 say nothing."""
    if steps is None or 0 in shape:
        return True
    expected = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return all(size == 1 or a == b for size, a, b in zip(shape, steps, expected, strict=True))
