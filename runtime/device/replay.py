"""Runs that are replayed instead of queued op by op, for shapes that come back: of an engine, or of a whole region.

Queueing many small ops takes the host longer than the GPU takes to run them; one launch queues them all. It works on
the same memory each time, so that what goes in, and mostly what comes out, is copied: whether that pays is measured.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, TypeVar

from ..errors import FoveateError, InternalError
from .device import Device, DeviceArray
from .recording import Capture, Recording

_LOG = logging.getLogger("foveate")
_AFTER = 3  # runs of a kind, before it counts as one that comes back
_MOST = 8  # that are kept, with memory of their own
_KNOWN = 256  # kinds that are counted
_ROUNDS = 5  # of measuring
_GAIN = 0.97  # of the time that queueing takes: from there on, replaying is worth its memory

Feeds = Mapping[Any, DeviceArray]
R = TypeVar("R")

_MEASURED = ContextVar(
    "measured", default=False
)  # a run of which others are part: those are queued as they are


@dataclass(frozen=True)
class Prepared(Generic[R]):
    """A run on memory of its own. What it reads has to lie in `inputs`; `run` queues it, and gives what it makes.
    `nbytes`: of the memory. `holds`: what else it runs on."""

    inputs: Feeds
    run: Callable[[], R]
    nbytes: int = 0
    holds: tuple[object, ...] = ()


class Replays(Generic[R]):
    """Of one engine, or of one part of a region. `room`: the bytes that what is prepared may take at most, by now."""

    def __init__(self, device: Device, room: Callable[[], float] = lambda: float("inf")):
        self._device, self._room = device, room
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._prepared: OrderedDict[Any, Prepared[R]] = OrderedDict()
        self.tried = 0

    def run(
        self,
        key: Hashable,
        feeds: Feeds,
        plain: Callable[[Feeds], R],
        prepare: Callable[[Feeds], Prepared[R] | None],
        kind: Hashable = None,
    ) -> R:
        """What `plain` gives, which queues a run as it is, or a replay of what `prepare` made. That gives None where
        there is none; what it raises says the same. Runs of one key are alike; those of one `kind` (the key, if left
        out) are counted together."""
        if self._device.recording is not None or _MEASURED.get():
            return plain(feeds)
        prepared = self._prepared.get(key)
        if prepared is None and self._comes_back(kind := key if kind is None else kind):
            prepared = self._try(key, kind, feeds, plain, prepare)
        if prepared is None:
            return plain(feeds)
        self._prepared.move_to_end(key)
        return self._replay(prepared, feeds)

    @property
    def keys(self) -> list[Any]:
        """Of what is prepared."""
        return list(self._prepared)

    @property
    def nbytes(self) -> int:
        return sum(prepared.nbytes for prepared in self._prepared.values())

    def clear(self) -> None:
        self._prepared.clear()
        self._seen.clear()

    def _comes_back(self, kind: Hashable) -> bool:
        """Once: when it has been seen often enough."""
        self._seen[kind] = seen = self._seen.pop(kind, 0) + 1
        if len(self._seen) > _KNOWN:
            self._seen.popitem(last=False)
        return seen == _AFTER

    def _try(
        self,
        key: Hashable,
        kind: Hashable,
        feeds: Feeds,
        plain: Callable[[Feeds], R],
        prepare: Callable[[Feeds], Prepared[R] | None],
    ) -> Prepared[R] | None:
        self.tried += 1
        try:
            prepared = prepare(feeds)
            if prepared is None or not self._pays(prepared, feeds, plain):
                return None
        except (FoveateError, InternalError) as error:  # it runs as it did before
            level = logging.WARNING if isinstance(error, InternalError) else logging.DEBUG
            _LOG.log(level, "no CUDA graph: %s", error)
            return None
        if prepared.nbytes > self._room():
            _LOG.debug("no CUDA graph: its %d bytes are more than are left", prepared.nbytes)
            return None
        if len(self._prepared) == _MOST:
            self._prepared.popitem(last=False)
        self._prepared[key] = prepared
        del self._seen[kind]  # others of the kind may come back; and this one, when it has gone
        return prepared

    def _pays(self, prepared: Prepared[R], feeds: Feeds, plain: Callable[[Feeds], R]) -> bool:
        before, replayed = [], []
        within = _MEASURED.set(True)
        try:
            for _ in range(_ROUNDS):
                before.append(self._time(lambda: plain(feeds)))
                replayed.append(self._time(lambda: self._replay(prepared, feeds)))
        finally:
            _MEASURED.reset(within)
        return min(replayed) < _GAIN * min(before)

    def _time(self, run: Callable[[], object]) -> float:
        self._wait()
        start = perf_counter()
        run()
        self._wait()
        return perf_counter() - start

    def _wait(self) -> None:
        mark = self._device.mark()
        self._device.elapsed_ms(mark, mark)

    def _replay(self, prepared: Prepared[R], feeds: Feeds) -> R:
        for name, target in prepared.inputs.items():
            if feeds[name].pointer != target.pointer:
                self._device.copy_into(target, feeds[name])
        return prepared.run()


def recorded(
    device: Device, capture: Capture, feeds: Feeds, work: Callable[[Feeds], R], fixed: Feeds | None = None
) -> tuple[Feeds, R, Recording]:
    """What `work` reads, what it makes, and a recording of it, on copies of its feeds; but on those themselves that are
    `fixed`, since they will lie there in the next run, too."""
    inputs = {name: feed if name in (fixed or ()) else device.copy(feed) for name, feed in feeds.items()}
    made: list[R] = []

    def run() -> None:
        made[:] = [work(inputs)]

    recording = Recording(device, run, capture)
    return inputs, made[0], recording


def own(device: Device, launch: Callable[[], object], outputs: Sequence[DeviceArray]) -> list[DeviceArray]:
    """The outputs of a launch, in memory of their own."""
    launch()
    return [device.copy(output) for output in outputs]
