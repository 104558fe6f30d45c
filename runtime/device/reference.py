"""Reference states on a device, and the scratch of whole batches that is written over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..grid import RegionGrid
from ..manifest import Pair
from .device import Device, DeviceArray, TileGrid, Tiles


@dataclass
class DeviceScratch:
    """A writable copy of a reference for each image of a batch. Whoever writes says which tiles, with so many positions
    a cell, and how many of them, through `dirtied`."""

    arrays: dict[str, DeviceArray]
    dirtied: list[tuple[str, Tiles, Pair, int]] = field(default_factory=list)


class DeviceReference:
    """See `state.Cached`. `arrays`: [1, C, H, W] of every segment's outputs; scratch is [batch, C, H, W]. `tiles`: of
    the grid's window rules."""

    def __init__(self, device: Device, arrays: Mapping[str, DeviceArray], batch: int):
        self._device, self._batch, self.arrays = device, batch, arrays
        self.held_bytes = sum(array.nbytes for array in arrays.values())
        self.scratch_bytes = batch * self.held_bytes
        self.pool: list[DeviceScratch] = []
        self.cached = True
        self.grid: RegionGrid | None = None
        self.tiles: tuple[TileGrid, ...] = ()
        self.refusal = ""  # why the region cannot run on windows

    def new_scratch(self) -> DeviceScratch:
        return DeviceScratch({n: self._device.copy(array, self._batch) for n, array in self.arrays.items()})

    def restore(self, scratch: DeviceScratch) -> None:
        for name, tiles, positions, n in scratch.dirtied:
            self._device.restore_tiles(scratch.arrays[name], self.arrays[name], tiles, positions, n)
        scratch.dirtied.clear()
