"""An array in a GPU's memory, which torch and CuPy read without a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError, InternalError
from . import dlpack
from .device import Shape
from .queue import Held, Queue

_LEGACY_STREAM = 1  # CU_STREAM_LEGACY, which is what no stream at all means in DLPack


class Memory(Held):
    """A block of a GPU's memory, which goes back by `release`, or to the queue's pool."""

    def __init__(self, queue: Queue, pointer: int, release: Callable[[], None] | None = None):
        super().__init__(queue)
        self.pointer, self._release = pointer, release
        self.readers: tuple[int, ...] = ()  # streams of other libraries, which may read it when it goes back

    def add_reader(self, stream: int) -> None:
        if stream not in self.readers:
            self.readers += (stream,)

    def _give_back(self) -> None:
        if self._release is None and not self.readers:
            self.queue.free(self.pointer)
        else:
            release = self._release or partial(self.queue.free, self.pointer)
            self.queue.defer(partial(_release_behind, self.queue, self.readers, release))


def _release_behind(queue: Queue, streams: Iterable[int], release: Callable[[], None]) -> None:
    for stream in streams:
        queue.follow(stream)
    release()


class CudaArray:
    """See `device.DeviceArray`."""

    __slots__ = ("__weakref__", "dtype", "memory", "pointer", "shape")

    def __init__(self, memory: Memory, shape: Shape, dtype: np.dtype):
        self.memory, self.shape, self.dtype, self.pointer = memory, shape, dtype, memory.pointer

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, shape: Shape) -> CudaArray:
        if math.prod(shape) > math.prod(self.shape):
            raise InternalError(f"a view {list(shape)} of an array {list(self.shape)}")
        return CudaArray(self.memory, tuple(shape), self.dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.memory.queue.ordinal

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """`stream`: of who takes it, which then waits for the work that is queued here; −1: it needs no wait. It
        has to exist for as long as the taker holds the array."""
        stream = _LEGACY_STREAM if stream is None else stream
        if stream >= 0 and stream != self.memory.queue.stream:
            self.memory.queue.lead(stream)
            self.memory.add_reader(stream)
        kept = [self]
        return dlpack.export(self.pointer, self.shape, self.dtype, self.__dlpack_device__(), kept.clear)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. Whoever reads it makes its stream wait for ours."""
        queue = self.memory.queue
        self.memory.add_reader(_LEGACY_STREAM)
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": queue.stream,
        }


def adopt(queue: Queue, value: Any) -> CudaArray | None:
    """An array of another library in the memory of the queue's GPU, without a copy if it is C-contiguous; None for
    anything else. Work that is queued from now on runs after what made it."""
    if hasattr(value, "__dlpack_device__") and hasattr(value, "__dlpack__"):
        kind, ordinal = value.__dlpack_device__()
        if (int(kind), ordinal) == (dlpack.CUDA, queue.ordinal):
            return _by_dlpack(queue, value)
    elif hasattr(value, "__cuda_array_interface__"):
        return _by_interface(queue, value)
    return None


def _by_dlpack(queue: Queue, value: Any) -> CudaArray:
    value = (
        value.detach() if hasattr(value, "detach") else value
    )  # torch gives none of what requires gradients
    taken = _take(queue, value)
    if not taken.contiguous:
        taken.release()
        packed = value.contiguous() if hasattr(value, "contiguous") else value.copy()
        taken = _take(queue, packed)
    memory = Memory(queue, taken.pointer, partial(queue.retire, taken.release))
    return CudaArray(memory, taken.shape, taken.dtype)


def _take(queue: Queue, value: Any) -> dlpack.Taken:
    try:
        with queue.between_captures():
            return dlpack.take(value.__dlpack__(stream=queue.stream))
    except TypeError as error:
        raise InputError(
            "an array on the GPU",
            got=str(error),
            expected="a dtype that numpy has",
            fix="Convert it first, e.g. tensor.float().",
        ) from error


def _by_interface(queue: Queue, value: Any) -> CudaArray:
    facts = value.__cuda_array_interface__
    shape, dtype = tuple(facts["shape"]), np.dtype(facts["typestr"])
    steps = facts.get("strides")
    if not dlpack.is_contiguous(shape, steps and tuple(step // dtype.itemsize for step in steps)):
        return _by_interface(queue, value.copy())
    if facts.get("stream") is not None:
        queue.follow(facts["stream"])
    kept = [value]
    return CudaArray(Memory(queue, facts["data"][0], partial(queue.retire, kept.clear)), shape, dtype)
