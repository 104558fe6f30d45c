"""A device in this machine's own memory, with the kernels in numpy: what those of a GPU have to compute, and what
stands in for one. It is stricter than a GPU: what would read or write other memory there raises InternalError here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import InternalError
from ..geometry import count_cells, dirty_map, project_cells
from ..manifest import Pair
from .device import DeviceArray, Reach, Shape, TileGrid, Tiles
from .recording import Recording, Work

_POISON = 0xFF  # what memory holds before it is written and after it is freed: NaN, −1


class _Memory:
    """Bytes of a device, poisoned when the last array in them is gone: who kept a view of them sees it."""

    def __init__(self, size: int):
        self.bytes = np.full(size, _POISON, np.uint8)

    def __del__(self) -> None:
        self.bytes.fill(_POISON)


class HostArray:
    """See `device.DeviceArray`. `values` is the memory itself, for kernels and engines, as long as the array lives."""

    def __init__(self, shape: Shape, dtype: np.dtype | type, memory: _Memory | None = None):
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._memory = memory if memory is not None else _Memory(self.nbytes)
        if self.nbytes > self._memory.bytes.nbytes:
            raise InternalError(f"a view {self.shape} of {self._memory.bytes.nbytes} bytes")

    @property
    def values(self) -> np.ndarray:
        return self._memory.bytes[: self.nbytes].view(self.dtype).reshape(self.shape)

    @property
    def pointer(self) -> int:
        return self._memory.bytes.ctypes.data

    def poison(self) -> None:
        self.values.view(np.uint8).fill(_POISON)

    def view(self, shape: Shape) -> HostArray:
        return HostArray(shape, self.dtype, self._memory)


class HostDevice:
    """See `device.Device`. `gets` counts how often somebody waited for what was computed."""

    name, waited_ms = "host", 0.0

    def __init__(self, memory: int = 2**30):
        self.memory, self.gets = memory, 0
        self.recording: Recording | None = None

    @property
    def fingerprint(self) -> dict[str, str]:
        return {"device": self.name}

    def adopt(self, value: Any) -> HostArray | None:
        return value if isinstance(value, HostArray) else None

    def empty(self, shape: Shape, dtype: np.dtype | type) -> HostArray:
        if self.recording is None:
            return HostArray(shape, dtype)
        made = self.recording.keep((tuple(shape), np.dtype(dtype)), partial(HostArray, shape, dtype))
        made.poison()  # whatever is there from the last launch
        return made

    def copy(self, source: DeviceArray, batch: int | None = None) -> HostArray:
        values = _values(source)
        if batch is not None and len(values) != 1:
            raise InternalError(f"{len(values)} images are to be repeated")
        made = self.empty((len(values) if batch is None else batch, *source.shape[1:]), source.dtype)
        made.values[:] = values
        return made

    def copy_into(self, target: DeviceArray, source: DeviceArray) -> None:
        if (target.shape, target.dtype) != (source.shape, source.dtype):
            raise InternalError(f"{source.dtype} {source.shape} into {target.dtype} {target.shape}")
        _values(target)[...] = _values(source)

    def put(self, array: np.ndarray) -> HostArray:
        if not isinstance(array, np.ndarray):
            raise InternalError(f"a {type(array).__name__} is to be put on the device")
        self._refuse_in_recording()
        return self.made(array)

    def made(self, array: np.ndarray) -> HostArray:
        """What a kernel or an engine computed."""
        made = self.empty(array.shape, array.dtype)
        made.values[...] = array
        return made

    def get(self, arrays: Sequence[DeviceArray]) -> list[np.ndarray]:
        self._refuse_in_recording()
        self.gets += 1
        return [_values(array).copy() for array in arrays]

    def tally(self, array: DeviceArray) -> HostArray:
        values = _values(array).reshape(len(_values(array)), -1)
        bad = (
            ~np.isfinite(values) if np.issubdtype(values.dtype, np.inexact) else np.zeros(values.shape, bool)
        )
        return self.made(np.stack([bad.sum(axis=1), (values != 0).sum(axis=1)], axis=1).astype(np.int32))

    def take_rows(self, source: DeviceArray, rows: DeviceArray) -> HostArray:
        return self.made(_values(source)[_rows(rows, source)])

    def put_rows(self, target: DeviceArray, rows: DeviceArray, source: DeviceArray) -> None:
        if source.shape != (*rows.shape, *target.shape[1:]) or source.dtype != target.dtype:
            raise InternalError(f"{source.dtype} {source.shape} for {rows.shape} rows of {target.shape}")
        _values(target)[_rows(rows, target)] = _values(source)

    def everywhere(self, shape: Shape) -> HostArray:
        return self.made(np.ones(shape, np.uint8))

    def support(self, mask: DeviceArray) -> HostArray:
        return self.made((_values(mask) != 0).any(axis=1).astype(np.uint8))

    def reach(self, terms: Sequence[Reach], size: Pair) -> HostArray:
        sources = [(_map(reach.source), reach.term) for reach in terms]
        images = range(len(sources[0][0]))
        found = [dirty_map([(source[n], term) for source, term in sources], size) for n in images]
        return self.made(np.stack(found).astype(np.uint8))

    def find_tiles(self, maps: Sequence[tuple[DeviceArray, Pair]], grid: TileGrid) -> Tiles:
        _check_grid(grid)
        images = len(_map(maps[0][0]))
        rows, columns = (-(-n // tile) for n, tile in zip(grid.cells, grid.tile, strict=True))
        places: list[tuple[int, int, int]] = []
        for image in range(images):
            dirty = np.zeros(grid.cells, bool)
            for array, positions in maps:
                if count_cells(array.shape[1:], positions) != grid.cells:  # type: ignore[arg-type]
                    raise InternalError(f"a map {array.shape} for {grid.cells} cells of {positions}")
                dirty |= project_cells(_map(array)[image], positions, grid.cells)
            for i, j in np.argwhere(project_cells(dirty, grid.tile, (rows, columns))).tolist():
                row, column = i * grid.tile[0], j * grid.tile[1]
                last = grid.cells[0] - grid.tile[0], grid.cells[1] - grid.tile[1]
                places.append((image, min(row, last[0]), min(column, last[1])))
        listed = self.empty((images * grid.count, 3), np.int32)
        listed.values[: len(places)] = np.array(places, np.int32).reshape(-1, 3)
        return Tiles(grid, listed, self.made(np.array([len(places)], np.int32)))

    def take_windows(
        self, source: DeviceArray, tiles: Tiles, positions: Pair, n: int, first: int = 0
    ) -> HostArray:
        values, grid, count = _values(source), tiles.grid, _count(tiles)
        size = [w * p for w, p in zip(grid.window, positions, strict=True)]
        made = self.empty((n, source.shape[1], *size), source.dtype)
        for k in range(n if count else 0):
            image, row, column = _place(tiles, min(first + k, count - 1), source)
            (top, left), (height, width) = _window(grid, (row, column), positions), size
            taken = values[image if len(values) > 1 else 0, :, top : top + height, left : left + width]
            made.values[k] = 0  # beyond the border, where the last cells are not whole
            made.values[k, :, : taken.shape[1], : taken.shape[2]] = taken
        return made

    def put_windows(
        self, target: DeviceArray, tiles: Tiles, positions: Pair, values: DeviceArray, first: int = 0
    ) -> None:
        size = tuple(w * p for w, p in zip(tiles.grid.window, positions, strict=True))
        if values.shape[1:] != (target.shape[1], *size) or values.dtype != target.dtype:
            raise InternalError(f"windows {values.dtype} {values.shape} of {size} for {target.shape}")
        for k in range(min(values.shape[0], _count(tiles) - first)):
            image, row, column = _place(tiles, first + k, target)
            top, left = _window(tiles.grid, (row, column), positions)
            own = _owned(tiles.grid, (row, column), positions, target)
            part = (
                slice(own[0].start - top, own[0].stop - top),
                slice(own[1].start - left, own[1].stop - left),
            )
            _values(target)[image, :, own[0], own[1]] = _values(values)[k, :, part[0], part[1]]

    def restore_tiles(
        self, target: DeviceArray, reference: DeviceArray, tiles: Tiles, positions: Pair, n: int
    ) -> None:
        if reference.shape != (1, *target.shape[1:]):
            raise InternalError(f"tiles of {reference.shape} for {target.shape}")
        for k in range(min(n, _count(tiles))):
            image, row, column = _place(tiles, k, target)
            ys, xs = _owned(tiles.grid, (row, column), positions, target)
            _values(target)[image, :, ys, xs] = _values(reference)[0, :, ys, xs]

    def capture(self, work: Work) -> Work:
        work()  # as a GPU's driver asks for it, once
        return work

    def mark(self) -> float:
        return perf_counter()

    def elapsed_ms(self, start: float, end: float) -> float:
        return (end - start) * 1e3

    def _refuse_in_recording(self) -> None:
        if self.recording is not None:
            raise InternalError("recorded work exchanges arrays with the host")


def _values(array: DeviceArray) -> np.ndarray:
    if not isinstance(array, HostArray):
        raise InternalError(f"a {type(array).__name__} where an array of the device belongs")
    return array.values


def _map(array: DeviceArray) -> np.ndarray:
    if array.dtype != np.uint8 or len(array.shape) != 3 or _values(array).max(initial=0) > 1:
        raise InternalError(f"no map: {array.dtype} {array.shape}")
    return _values(array).astype(bool)


def _rows(rows: DeviceArray, array: DeviceArray) -> np.ndarray:
    found = _values(rows)
    if rows.dtype != np.int32 or ((found < 0) | (found >= array.shape[0])).any():
        raise InternalError(f"rows {rows.dtype} {found.tolist()} of {array.shape}")
    return found


def _check_grid(grid: TileGrid) -> None:
    if any(not 0 < t <= w <= n for t, w, n in zip(grid.tile, grid.window, grid.cells, strict=True)):
        raise InternalError(f"tiles that do not fit their cells: {grid}")


def _count(tiles: Tiles) -> int:
    return int(_values(tiles.count)[0])


def _place(tiles: Tiles, number: int, array: DeviceArray) -> tuple[int, int, int]:
    """Of a tile. `array` has that image, or serves all."""
    image, row, column = _values(tiles.places)[number].tolist()
    (height, width), (tile_y, tile_x) = tiles.grid.cells, tiles.grid.tile
    inside = 0 <= row <= height - tile_y and 0 <= column <= width - tile_x
    if not inside or not (0 <= image < array.shape[0] or array.shape[0] == 1):
        raise InternalError(f"tile {number} at {(image, row, column)} of {array.shape}, grid {tiles.grid}")
    return image, row, column


def _window(grid: TileGrid, place: Pair, positions: Pair) -> Pair:
    """The first position of a tile's window."""
    top, left = (
        min(max(at - low, 0), n - window) * per
        for at, low, n, window, per in zip(
            place, grid.halo_low, grid.cells, grid.window, positions, strict=True
        )
    )
    return top, left


def _owned(grid: TileGrid, place: Pair, positions: Pair, array: DeviceArray) -> tuple[slice, slice]:
    """The positions that are a tile's own."""
    ys, xs = (
        slice(-(-at // tile) * tile * per, min(-(-at // tile) * tile + tile, n) * per)
        for at, tile, n, per in zip(place, grid.tile, grid.cells, positions, strict=True)
    )
    height, width = array.shape[2:]
    return slice(ys.start, min(ys.stop, height)), slice(xs.start, min(xs.stop, width))
