"""Replays of a region: of its plans, and of its runs, each as one graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .device import Device, DeviceArray, Tiles
from .recording import Capture, Recording
from .replay import Feeds, Prepared, Replays, recorded
from .tiles import Schedule

if TYPE_CHECKING:
    from .reference import DeviceScratch

_SLACK = 1.25  # of its predicted time may a run take that is replayed for more windows than it has


@dataclass(frozen=True)
class Found:
    """The dirty tiles of every window rule. `fixed`: what lies where the next replay will have it, too: masks by name,
    and the parts of distinct tiles by `parts`."""

    tiles: Sequence[Tiles]
    fixed: Feeds = field(default_factory=dict)

    @property
    def distinct(self) -> list[Tiles]:
        """Those that were looked for apart."""
        return list({id(tiles.count): tiles for tiles in self.tiles}.values())

    @property
    def parts(self) -> dict[Any, DeviceArray]:
        """Of distinct tiles."""
        found = {(i, "places"): tiles.places for i, tiles in enumerate(self.distinct)}
        return found | {(i, "count"): tiles.count for i, tiles in enumerate(self.distinct)}

    def made_of(self, parts: Feeds) -> list[Tiles]:
        """The same tiles, in other memory."""
        order = {id(tiles.count): i for i, tiles in enumerate(self.distinct)}
        numbers = [(tiles.grid, order[id(tiles.count)]) for tiles in self.tiles]
        return [Tiles(grid, parts[i, "places"], parts[i, "count"]) for grid, i in numbers]


@dataclass(frozen=True)
class Ran:
    """The outputs of every segment. `restore` undoes what was written into scratch."""

    tensors: Mapping[str, DeviceArray]
    restore: Callable[[], object]
    replayed: bool = False


class RegionReplays:
    """Of a region at one resolution and size of batches. `capture`: of its engines. `room`: see `Replays`.

    Runs write into the arrays of one scratch: where another one comes, they are forgotten."""

    def __init__(self, device: Device, capture: Capture, room: Callable[[], float]):
        self._device, self._capture = device, capture
        self._plans, self._runs = Replays[Found](device, room), Replays[Ran](device, room)
        self._scratch: DeviceScratch | None = None

    @property
    def nbytes(self) -> int:
        return self._plans.nbytes + self._runs.nbytes

    @property
    def tried(self) -> int:
        """How often it was tried whether a replay pays: such a run's time is no evidence."""
        return self._plans.tried + self._runs.tried

    def clear(self) -> None:
        self._plans.clear()
        self._runs.clear()

    def find(self, images: int, masks: Feeds, plain: Callable[[Feeds], Found]) -> Found:
        def prepare(feeds: Feeds) -> Prepared[Found]:
            inputs, found, recording = recorded(self._device, self._capture, feeds, plain)
            found = Found(found.tiles, {**inputs, **found.parts})

            def run() -> Found:
                recording.launch()
                return found

            return Prepared(inputs, run, recording.nbytes + _bytes(inputs), (recording,))

        return self._plans.run(images, masks, plain, prepare)

    def run(
        self,
        schedule: Schedule,
        counts: Sequence[int],
        scratch: DeviceScratch,
        feeds: Feeds,
        fixed: Feeds,
        plain: Callable[[Feeds], Ran],
    ) -> Ran:
        """Of that schedule, or a dearer one that is prepared and not much dearer. `counts`: of its tiles. `fixed`: of
        the feeds, see `Found`."""
        if scratch is not self._scratch:
            self._runs.clear()
            self._scratch = scratch

        def prepare(feeds: Feeds) -> Prepared[Ran]:
            inputs, ran, recording = recorded(self._device, self._capture, feeds, plain, fixed)
            restoring = Recording(self._device, ran.restore, self._capture)
            ran = Ran(ran.tensors, restoring.launch, True)

            def run() -> Ran:
                recording.launch()
                return ran

            copied = {name: array for name, array in inputs.items() if name not in fixed}
            return Prepared(inputs, run, recording.nbytes + _bytes(copied), (recording, restoring))

        known = [s for s in self._runs.keys if s.covers(schedule.images, counts)]
        near = [s for s in known if s.ms <= _SLACK * schedule.ms]
        key = min(near, key=lambda s: s.ms, default=schedule)
        kind = schedule.images, round(math.log(max(schedule.ms, 1e-6), _SLACK))
        return self._runs.run(key, feeds, plain, prepare, kind)


def _bytes(arrays: Feeds) -> int:
    return sum(array.nbytes for array in arrays.values())
