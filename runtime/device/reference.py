"""Reference states on a device, and the scratch of whole batches that is written over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..grid import RegionGrid
from .device import Device, DeviceArray, TileGrid
from .region_replay import RegionReplays


@dataclass
class DeviceScratch:
    """A writable copy of a reference for each image of a batch. Whoever writes says how that is undone, through
    `restores`."""

    arrays: dict[str, DeviceArray]
    restores: list[Callable[[], object]] = field(default_factory=list)


class DeviceReference:
    """See `state.Cached`. `arrays`: [1, C, H, W] of every segment's outputs; scratch is [batch, C, H, W]. `tiles`: of
    the grid's window rules. `replays`: of runs over it, whose memory counts as its own; None where there are none."""

    def __init__(
        self,
        device: Device,
        arrays: Mapping[str, DeviceArray],
        batch: int,
        replays: RegionReplays | None = None,
    ):
        self._device, self._batch, self.arrays, self.replays = device, batch, arrays, replays
        self.pool: list[DeviceScratch] = []
        self.cached = True
        self.grid: RegionGrid | None = None
        self.tiles: tuple[TileGrid, ...] = ()
        self.refusal = ""  # why the region cannot run on windows

    @property
    def held_bytes(self) -> int:
        return self._nbytes + (self.replays.nbytes if self.replays is not None else 0)

    @property
    def scratch_bytes(self) -> int:
        return self._batch * self._nbytes

    @property
    def _nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def new_scratch(self) -> DeviceScratch:
        return DeviceScratch({n: self._device.copy(array, self._batch) for n, array in self.arrays.items()})

    def restore(self, scratch: DeviceScratch) -> None:
        for restore in scratch.restores:
            restore()
        scratch.restores.clear()
