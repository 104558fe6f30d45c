"""Which of the waiting images run next: those of one size, at one part of the program, with the same choices."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from .inputs import Batch
from .request import Request
from .result import Result


@dataclass(eq=False)
class Job:
    """One image on its way, since `start` on the clock of perf_counter. `due`: until when it may wait for others."""

    batch: Batch
    request: Request
    start: float
    due: float = 0.0
    part: int = 0
    busy_ms: float = 0.0  # that it spent in runs, not in waiting
    future: Future[Result] = field(default_factory=Future)

    @property
    def lane(self) -> Hashable:
        shapes = tuple(value.shape for value in self.batch.feeds.values())
        return self.part, shapes, id(self.request.choices)


class Lanes:
    """The waiting images, in order, by what may run together."""

    def __init__(self, max_batch: int):
        self._most = max_batch
        self._lanes: dict[Hashable, deque[Job]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def add(self, job: Job) -> None:
        self._lanes.setdefault(job.lane, deque()).append(job)

    def take(self, now: float) -> list[Job]:
        """At most `max_batch` images that run together now; none while all may wait.

        A lane is ready when it is full, or an image in it is due. Images that have begun go before others; where only
        such are there, they are not kept waiting. Of several lanes the one with the oldest image, and of these the one
        at the earlier part: images of one batch, parted by their depths, meet again in front of the head."""
        lanes = list(self._lanes.values())
        ready = [lane for lane in lanes if len(lane) >= self._most or _due(lane) <= now]
        for found in (_begun(ready), ready, _begun(lanes)):
            if found:
                return self._pop(min(found, key=lambda lane: (_due(lane), lane[0].part)))
        return []

    def clear(self) -> list[Job]:
        found = [job for lane in self._lanes.values() for job in lane]
        self._lanes.clear()
        return found

    @property
    def due(self) -> float:
        """When the first image may wait no longer."""
        return min(map(_due, self._lanes.values()))

    def _pop(self, lane: deque[Job]) -> list[Job]:
        key = lane[0].lane
        taken = [lane.popleft() for _ in range(min(self._most, len(lane)))]
        if not lane:
            del self._lanes[key]
        return taken


def _due(lane: deque[Job]) -> float:
    return min(job.due for job in lane)


def _begun(lanes: list[deque[Job]]) -> list[deque[Job]]:
    return [lane for lane in lanes if lane[0].part]
