"""An NVIDIA GPU. See `device.Device`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..cuda import kernels
from ..cuda import library as kernel_library
from ..cuda_device import compute_capability
from ..engine import Config
from ..errors import InternalError
from ..manifest import Pair
from .array import CudaArray, Memory, adopt
from .device import DeviceArray, Reach, Shape, TileGrid, Tiles
from .driver import Driver, compute_of, find_gpu, open_driver
from .queue import Event, Queue
from .recording import Recording, Work
from .staging import Staging

_ALIGNED = 256  # bytes, between arrays that are read together


class CudaDevice:
    """The GPU of an ordinal. `queue` has its stream, for engines; `compute`: its compute capability, as "sm89"."""

    def __init__(self, driver: Driver, ordinal: int = 0):
        self.queue = Queue(driver, ordinal)
        self.name = f"cuda:{ordinal}"
        self.memory = _total_memory(driver, self.queue.device)
        self.fingerprint = describe_gpu(driver, ordinal)
        self.compute = self.fingerprint["compute"]
        self.recording: Recording | None = None
        self._staging = Staging(self.queue)
        self._scratch: CudaArray | None = None
        self._cleared: CudaArray | None = None  # what `find_tiles` works in: all zeros between its calls

    @property
    def waited_ms(self) -> float:
        return self.queue.waited_ms

    def adopt(self, value: Any) -> CudaArray | None:
        if not isinstance(value, CudaArray):
            return adopt(self.queue, value)
        if value.memory.queue is not self.queue:
            self.queue.follow(value.memory.queue.stream)
        return value

    def empty(self, shape: Shape, dtype: np.dtype | type) -> CudaArray:
        shape, dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        if self.recording is not None:
            return self.recording.keep((shape, dtype), partial(self._allocate, shape, dtype))
        return self._allocate(shape, dtype)

    def _allocate(self, shape: Shape, dtype: np.dtype) -> CudaArray:
        nbytes = math.prod(shape) * dtype.itemsize
        return CudaArray(Memory(self.queue, self.queue.allocate(max(1, nbytes))), shape, dtype)

    def scratch(self, nbytes: int) -> CudaArray:
        """Memory of at least that size, which the next call gives again: for one piece of work at a time."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            self._scratch = None  # freed first
            self._scratch = self.empty((nbytes,), np.uint8)
        return self._scratch

    def copy(self, source: DeviceArray, batch: int | None = None) -> CudaArray:
        if batch is None:
            made = self.empty(source.shape, source.dtype)
            self.copy_into(made, source)
            return made
        if source.shape[0] != 1:
            raise InternalError(f"{source.shape[0]} images are to be repeated")
        made = self.empty((batch, *source.shape[1:]), source.dtype)
        self._run(kernels.repeat, made, source)
        return made

    def copy_into(self, target: DeviceArray, source: DeviceArray) -> None:
        if (target.shape, target.dtype) != (source.shape, source.dtype):
            raise InternalError(f"{source.dtype} {source.shape} into {target.dtype} {target.shape}")
        if target.nbytes:
            self.queue.copy(target.pointer, source.pointer, target.nbytes)

    def put(self, array: np.ndarray) -> CudaArray:
        self._refuse_in_recording()
        made, array = self.empty(array.shape, array.dtype), np.ascontiguousarray(array)
        if array.nbytes:
            buffer = self._staging.take(array.nbytes)
            ctypes.memmove(buffer.pointer, array.ctypes.data, array.nbytes)
            self.queue.upload(made.pointer, buffer.pointer, array.nbytes)
            buffer.used()
        return made

    def get(self, arrays: Sequence[DeviceArray]) -> list[np.ndarray]:
        self._refuse_in_recording()
        ends = np.cumsum([-(-max(1, array.nbytes) // _ALIGNED) * _ALIGNED for array in arrays]).tolist()
        buffer = self._staging.take(ends[-1])
        places = [buffer.pointer + begin for begin in (0, *ends[:-1])]
        for array, place in zip(arrays, places, strict=True):
            if array.nbytes:
                self.queue.download(place, array.pointer, array.nbytes)
        buffer.used()
        self.queue.wait()
        return [_read(place, array) for array, place in zip(arrays, places, strict=True)]

    def tally(self, array: DeviceArray) -> CudaArray:
        made = self.empty((array.shape[0], 2), np.int32)
        self._run(kernels.tally, made, array)
        return made

    def take_rows(self, source: DeviceArray, rows: DeviceArray) -> CudaArray:
        made = self.empty((*rows.shape, *source.shape[1:]), source.dtype)
        self._run(kernels.take_rows, made, source, rows)
        return made

    def put_rows(self, target: DeviceArray, rows: DeviceArray, source: DeviceArray) -> None:
        self._run(kernels.put_rows, target, source, rows)

    def everywhere(self, shape: Shape) -> CudaArray:
        made = self.empty(shape, np.uint8)
        self.queue.fill(made.pointer, 1, made.nbytes)
        return made

    def support(self, mask: DeviceArray) -> CudaArray:
        n, _, height, width = mask.shape
        made = self.empty((n, height, width), np.uint8)
        self._run(kernels.support, made, mask)
        return made

    def reach(self, terms: Sequence[Reach], size: Pair) -> CudaArray:
        made = self.empty((terms[0].source.shape[0], *size), np.uint8)
        self._run(kernels.reach, made, terms)
        return made

    def find_tiles(self, maps: Sequence[tuple[DeviceArray, Pair]], grid: TileGrid) -> Tiles:
        batch = maps[0][0].shape[0]
        tiles = Tiles(grid, self.empty((batch * grid.count, 3), np.int32), self.empty((1,), np.int32))
        self._run(kernels.find_tiles, tiles, self._zeros(kernels.scratch_bytes(batch, grid)), maps, batch)
        return tiles

    def take_windows(
        self, source: DeviceArray, tiles: Tiles, positions: Pair, n: int, first: int = 0
    ) -> CudaArray:
        size = [cells * per for cells, per in zip(tiles.grid.window, positions, strict=True)]
        made = self.empty((n, source.shape[1], *size), source.dtype)
        self._run(kernels.take_windows, made, source, tiles, positions, first)
        return made

    def put_windows(
        self, target: DeviceArray, tiles: Tiles, positions: Pair, values: DeviceArray, first: int = 0
    ) -> None:
        self._run(kernels.put_windows, target, values, tiles, positions, first)

    def restore_tiles(
        self, target: DeviceArray, reference: DeviceArray, tiles: Tiles, positions: Pair, n: int
    ) -> None:
        self._run(kernels.restore_tiles, target, reference, tiles, positions, n)

    def capture(self, work: Work) -> Work:
        self.queue.wait()
        return self.queue.capture(work).launch

    def mark(self) -> Event:
        return self.queue.mark(timing=True)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return end.ms_since(start)

    def _zeros(self, nbytes: int) -> CudaArray:
        if self.recording is not None:
            return self.recording.keep(nbytes, partial(self._zeros_by_now, nbytes))
        return self._zeros_by_now(nbytes)

    def _zeros_by_now(self, nbytes: int) -> CudaArray:
        if self._cleared is None or self._cleared.nbytes < nbytes:
            self._cleared = self.empty((nbytes,), np.uint8)
            self.queue.fill(self._cleared.pointer, 0, self._cleared.nbytes)
        return self._cleared

    def _refuse_in_recording(self) -> None:
        if self.recording is not None:
            raise InternalError("recorded work exchanges arrays with the host")

    def _run(self, kernel: Any, *arguments: Any) -> None:
        with self.queue.current():
            kernel(*arguments, stream=self.queue.stream)


def open_device(config: Config) -> CudaDevice:
    """The first GPU. Raises EngineError where there is none, or no driver."""
    return CudaDevice(open_driver())


def why_missing() -> str:
    """Why no device can be opened here; "" where it can. Asks for a driver and its GPU, and leaves them as they are."""
    if not compute_capability():
        return "this machine has no NVIDIA GPU, or no driver for it"
    if reason := kernel_library.why_missing():
        return f"Foveate's CUDA kernels are missing: {reason}"
    return ""


def _read(place: int, array: DeviceArray) -> np.ndarray:
    made = np.empty(array.shape, array.dtype)
    ctypes.memmove(made.ctypes.data, place, array.nbytes)
    return made


def _total_memory(driver: Driver, device: int) -> int:
    total = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    return total.value


def describe_gpu(driver: Driver, ordinal: int = 0) -> dict[str, str]:
    """Its name, its compute capability, and the CUDA version that its driver speaks: "13.0". Raises EngineError."""
    device, version, name = find_gpu(driver, ordinal), ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return {
        "device": name.value.decode(),
        "compute": compute_of(driver, device),
        "driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }
