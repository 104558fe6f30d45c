"""What the device executor asks of a device: memory, copies, and the few kernels of selective execution.

`cuda.py` is an NVIDIA GPU; `host.py` keeps "device" memory in this machine's own and runs the kernels in numpy: their
reference, and a device for machines without one. All work of one device is queued on one stream, in order; only `get`
waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..manifest import Pair, Term

if TYPE_CHECKING:
    from .recording import Recording, Work

Shape = tuple[int, ...]


class DeviceArray(Protocol):
    """A C-contiguous array in a device's memory, freed with its last reference; views keep what they view. On a GPU it
    speaks DLPack and the CUDA array interface, so torch and CuPy read it without a copy."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def pointer(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

    def view(self, shape: Shape) -> DeviceArray:
        """The same memory, from its begin on, in a shape of as many elements or fewer."""
        ...


@dataclass(frozen=True)
class Reach:
    """One reason for positions of a map to be dirty: `term.source` is left aside, `source` is its map."""

    source: DeviceArray
    term: Term


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one size over a grid of cells, and the window that each reads.

    Tile (i, j) starts at cell (min(i·tile, cells − tile), …): the last of a row lies inside, over the one before, and
    owns of its cells only those behind it. Its window is halo_low + tile + halo_high cells, shifted inward where it
    would pass the border, so all windows of a segment have one size; what is kept of it is what the tile owns. Neither
    is larger than the grid.
    """

    cells: Pair
    tile: Pair
    halo_low: Pair
    halo_high: Pair

    @property
    def window(self) -> Pair:
        (low_y, low_x), (high_y, high_x), (tile_y, tile_x) = self.halo_low, self.halo_high, self.tile
        return low_y + tile_y + high_y, low_x + tile_x + high_x

    @property
    def count(self) -> int:
        """Of an image."""
        return -(-self.cells[0] // self.tile[0]) * -(-self.cells[1] // self.tile[1])


@dataclass(frozen=True)
class Tiles:
    """The tiles with something dirty in them: `places` int32 [capacity, 3] holds (image, row, column) in cells, of
    their first cells, in that order; `count` int32 [1] how many. Both are on the device: `Device.get` reads counts."""

    grid: TileGrid
    places: DeviceArray
    count: DeviceArray


class Device(Protocol):
    """A GPU, or what stands in for one. Not for concurrent callers: the executor takes turns.

    Maps are uint8 [N, h, w], 1 where dirty. Tensors of windows have height and width on axes 2 and 3. `positions`: of a
    tensor, a cell (see the manifest's geometry). `recording`: of the work that is being recorded, which takes memory
    through it, and may neither `put` nor `get`.
    """

    recording: Recording | None

    @property
    def name(self) -> str:
        """ "cuda:0", "host"."""
        ...

    @property
    def memory(self) -> int:
        """Bytes, in all."""
        ...

    @property
    def fingerprint(self) -> dict[str, str]:
        """What costs that are measured on it hold for: its model, and the versions of what runs it."""
        ...

    @property
    def waited_ms(self) -> float:
        """That the host has waited for it so far."""
        ...

    def adopt(self, value: Any) -> DeviceArray | None:
        """An array of another library in this device's memory, without a copy where it is C-contiguous; None for
        anything else. It must not be changed until the device is done with it."""
        ...

    def empty(self, shape: Shape, dtype: np.dtype | type) -> DeviceArray: ...
    def copy(self, source: DeviceArray, batch: int | None = None) -> DeviceArray:
        """Of its own memory; with `batch`, [1, …] repeated to [batch, …]."""
        ...

    def copy_into(self, target: DeviceArray, source: DeviceArray) -> None:
        """Of one shape and dtype."""
        ...

    def put(self, array: np.ndarray) -> DeviceArray:
        """The array may be changed as soon as this returns."""
        ...

    def get(self, arrays: Sequence[DeviceArray]) -> list[np.ndarray]:
        """Through pinned memory, with one wait for all. Fresh arrays. Raises EngineError for what failed on the device
        since the last wait."""
        ...

    def tally(self, array: DeviceArray) -> DeviceArray:
        """int32 [N, 2]: of each image of an array [N, …] of any numeric dtype, how many values are NaN or infinite, and
        how many are not 0."""
        ...

    def take_rows(self, source: DeviceArray, rows: DeviceArray) -> DeviceArray:
        """source[rows], rows int32 [n]."""
        ...

    def put_rows(self, target: DeviceArray, rows: DeviceArray, source: DeviceArray) -> None:
        """target[rows] = source."""
        ...

    def everywhere(self, shape: Shape) -> DeviceArray:
        """The map of that shape in which all is dirty."""
        ...

    def support(self, mask: DeviceArray) -> DeviceArray:
        """The map of a mask [N, C, h, w] of any numeric dtype: 1 where any channel is not 0."""
        ...

    def reach(self, terms: Sequence[Reach], size: Pair) -> DeviceArray:
        """The map [N, *size] of what terms reach: position o is dirty if any of a source's positions from
        floor(o·num/den) + low to floor(o·num/den) + high is, along both axes."""
        ...

    def find_tiles(self, maps: Sequence[tuple[DeviceArray, Pair]], grid: TileGrid) -> Tiles:
        """The tiles that own a cell in which any of these maps, each with its positions a cell, is dirty."""
        ...

    def take_windows(
        self, source: DeviceArray, tiles: Tiles, positions: Pair, n: int, first: int = 0
    ) -> DeviceArray:
        """The windows of n tiles from the `first` on, [n, C, h, w], of a source [N, C, H, W]; [1, C, H, W] serves all
        images. Where fewer are there the last is repeated; of none, what is in them is anyone's guess."""
        ...

    def put_windows(
        self, target: DeviceArray, tiles: Tiles, positions: Pair, values: DeviceArray, first: int = 0
    ) -> None:
        """Writes what tiles, from the `first` on, own of their windows [n, C, h, w] into the target [N, C, H, W]."""
        ...

    def restore_tiles(
        self, target: DeviceArray, reference: DeviceArray, tiles: Tiles, positions: Pair, n: int
    ) -> None:
        """Copies what the first n tiles, or all where fewer are there, own of a reference [1, C, H, W] back into the
        target."""
        ...

    def capture(self, work: Work) -> Work:
        """What queues all that `work`, which a `Recording` calls, does on the device, at once. Raises EngineError where
        some of it cannot be captured."""
        ...

    def mark(self) -> Any:
        """A point in the queue of work, for `elapsed_ms`."""
        ...

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Between two marks; waits for the second. Raises as `get` does."""
        ...
