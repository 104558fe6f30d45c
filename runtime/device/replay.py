"""Runs of an engine that are replayed instead of queued op by op, for shapes that come back.

Queueing the ops of a small engine takes the host longer than the GPU takes to run them; one launch queues them all. It
works on the same memory each time, so that what goes in and comes out is copied: whether that pays is measured.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import FoveateError
from .device import DeviceArray

if TYPE_CHECKING:
    from .cuda import CudaDevice

_LOG = logging.getLogger("foveate")
_AFTER = 3  # runs of a shape, before it counts as one that comes back
_MOST = 8  # shapes with memory of their own
_KNOWN = 256  # shapes that are counted
_ROUNDS = 5  # of measuring
_GAIN = 0.97  # of the time that queueing takes: from there on, replaying is worth its memory

Feeds = Mapping[str, DeviceArray]


@dataclass(frozen=True)
class Prepared:
    """A run on memory of its own. `launch` queues it; `holds`: what else it runs on."""

    inputs: Mapping[str, DeviceArray]
    outputs: Sequence[DeviceArray]
    launch: Callable[[], None]
    holds: tuple[object, ...] = ()


class Replays:
    """Of one engine. `plain` queues a run as it is. `prepare` makes one that is to be replayed, or None where there is
    none; what it raises says the same."""

    def __init__(
        self,
        device: CudaDevice,
        plain: Callable[[Feeds], list[DeviceArray]],
        prepare: Callable[[Feeds], Prepared | None],
    ):
        self._device, self._plain, self._prepare = device, plain, prepare
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._prepared: OrderedDict[Hashable, Prepared] = OrderedDict()

    def run(self, shapes: Hashable, feeds: Feeds) -> list[DeviceArray]:
        """The outputs, in memory of their own. `shapes` of the feeds: runs with equal ones are alike."""
        prepared = self._prepared.get(shapes)
        if prepared is None and self._comes_back(shapes):
            prepared = self._try(shapes, feeds)
        if prepared is None:
            return self._plain(feeds)
        self._prepared.move_to_end(shapes)
        return self._replay(prepared, feeds)

    def clear(self) -> None:
        self._prepared.clear()

    def _comes_back(self, shapes: Hashable) -> bool:
        """Once: when it has been seen often enough."""
        self._seen[shapes] = seen = self._seen.pop(shapes, 0) + 1
        if len(self._seen) > _KNOWN:
            self._seen.popitem(last=False)
        return seen == _AFTER

    def _try(self, shapes: Hashable, feeds: Feeds) -> Prepared | None:
        try:
            prepared = self._prepare(feeds)
            if prepared is None or not self._pays(prepared, feeds):
                return None
        except FoveateError as error:  # it runs as it did before
            _LOG.debug("no CUDA graph: %s", error)
            return None
        if len(self._prepared) == _MOST:
            old, _ = self._prepared.popitem(last=False)
            self._seen.pop(old, None)  # it may come back again
        self._prepared[shapes] = prepared
        return prepared

    def _pays(self, prepared: Prepared, feeds: Feeds) -> bool:
        plain, replay = [], []
        for _ in range(_ROUNDS):
            plain.append(self._time(lambda: self._plain(feeds)))
            replay.append(self._time(lambda: self._replay(prepared, feeds)))
        return min(replay) < _GAIN * min(plain)

    def _time(self, run: Callable[[], object]) -> float:
        self._device.queue.wait()
        start = perf_counter()
        run()
        self._device.queue.wait()
        return perf_counter() - start

    def _replay(self, prepared: Prepared, feeds: Feeds) -> list[DeviceArray]:
        queue = self._device.queue
        for name, target in prepared.inputs.items():
            queue.copy(target.pointer, feeds[name].pointer, target.nbytes)
        prepared.launch()
        return [self._device.copy(output) for output in prepared.outputs]
