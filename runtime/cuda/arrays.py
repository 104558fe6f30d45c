"""Arrays in a GPU's memory, whoever's they are: where their numbers begin, their shape and dtype."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..device.dlpack import is_contiguous, take
from ..errors import InputError

DEVICES = {2, 13}  # of DLPack: CUDA memory, and managed


class View(NamedTuple):
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
    facts = getattr(array, "__cuda_array_interface__", None)  # torch has none for a tensor on the CPU
    if facts is not None:
        dtype, strides = np.dtype(facts["typestr"]), facts.get("strides")
        made = View(int(facts["data"][0] or 0), tuple(facts["shape"]), dtype, array)
        steps = None if strides is None else tuple(stride // dtype.itemsize for stride in strides)
        contiguous = is_contiguous(made.shape, steps)
    elif hasattr(array, "__dlpack_device__"):
        made, contiguous = _from_dlpack(array, what)
    else:
        raise InputError(
            what,
            got=type(array).__name__,
            expected="an array on a GPU, with __cuda_array_interface__ or __dlpack__",
            fix="Pass a CUDA tensor of torch, or an array of CuPy.",
        )
    if not contiguous:
        raise InputError(
            what,
            got=f"one of shape {list(made.shape)} with strides",
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


def _from_dlpack(array: Any, what: str) -> tuple[View, bool]:
    """And whether it is contiguous."""
    kind = int(array.__dlpack_device__()[0])
    if kind not in DEVICES:
        raise InputError(
            what,
            got=f"an array on DLPack's device type {kind}",
            expected="one in CUDA memory",
            fix="Move it there first: tensor.cuda(), or cupy.asarray(array).",
        )
    try:
        taken = take(array.__dlpack__())
    except TypeError as error:
        raise InputError(
            what, got=str(error), expected="numbers of a type that numpy has", fix="Convert it first."
        ) from error
    taken.release()  # the array itself keeps its memory
    return View(taken.pointer, taken.shape, taken.dtype, array), taken.contiguous
