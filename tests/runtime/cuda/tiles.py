"""What tests of the kernels have in common: random arrays, and tiles with their own cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from foveate.runtime.device.device import TileGrid, Tiles
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
BACKWARDS = st.booleans()


def random_of(seed: int, shape, dtype, some: float = 0.1) -> np.ndarray:
    """Mostly 0."""
    random = np.random.default_rng(seed)
    return (random.integers(1, 100, shape) * (random.random(shape) < some)).astype(dtype)


def shifted(array: np.ndarray, by: int) -> np.ndarray:
    """A copy that begins at an address of its own: `by` elements behind a multiple of 16 bytes or more."""
    memory = np.zeros(array.size + by + 64, array.dtype)
    start = -(memory.ctypes.data // array.itemsize) % (64 // array.itemsize) + by
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def tiles_of(grid: TileGrid, batch: int) -> Any:
    """Tiles, none yet, whose places and count are of numpy."""
    places: Any = np.full((batch * grid.count, 3), -9, np.int32)
    count: Any = np.full(1, -9, np.int32)
    return Tiles(grid, places, count)


def own_cells(grid: TileGrid) -> Iterator[tuple[int, int, slice, slice]]:
    """(row, column, own rows, own columns) of every tile of an image, in order."""
    for y in range(0, grid.cells[0], grid.tile[0]):
        for x in range(0, grid.cells[1], grid.tile[1]):
            row, column = min(y, grid.cells[0] - grid.tile[0]), min(x, grid.cells[1] - grid.tile[1])
            yield row, column, slice(y, y + grid.tile[0]), slice(x, x + grid.tile[1])


def scaled(part: slice, per: int) -> slice:
    return slice(part.start * per, part.stop * per)
