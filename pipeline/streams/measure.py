"""The measurement: frame after frame through K streams and, in turn with them, through the dense engine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ...runtime import Result
from ...runtime.region_stream import RegionStream
from ...runtime.stream import Stream
from ..dense import Dense
from ..interleave import no_garbage_collection
from ..timers import WALL
from .errors import Comparison

AnyStream = Stream | RegionStream


@dataclass(frozen=True)
class Frame:
    """A frame as the first stream saw it. `changed`: bool [height, width], None: all of it."""

    number: int
    image: np.ndarray
    result: Result
    changed: np.ndarray | None
    work: float  # share of a whole frame's multiply-adds
    ms: float
    reason: str  # why all of it was computed, if so


@dataclass
class Measured:
    """By frame; times in ms, of the streams [frames, streams], of the dense engine [frames compared]."""

    wall: list[list[float]] = field(default_factory=list)
    cpu: list[list[float]] = field(default_factory=list)
    dense_wall: list[float] = field(default_factory=list)
    dense_cpu: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    comparison: Comparison = field(default_factory=Comparison)
    state_bytes: int = 0

    def dense_by_frame(self) -> np.ndarray:
        """[frames]: a frame that was not compared takes the dense time of the last one that was."""
        latest = np.searchsorted(self.comparison.frames, np.arange(len(self.wall)), side="right") - 1
        return np.asarray(self.dense_wall)[latest]


def measure(
    streams: Sequence[AnyStream],
    dense: Dense | None,
    images: Iterable[np.ndarray],
    *,
    every: int = 1,
    watch: Callable[[Frame], None] = lambda frame: None,
    tick: Callable[[], None] = lambda: None,
) -> Measured:
    """All streams see the same frames, in turn with the dense engine: streams first at even frames, last at odd ones.

    Every `every`-th frame is compared, and the one before it, for the control needs two in a row. The first frame is
    seen once before, untimed. `watch` gets each frame outside of the times."""
    found, frames = Measured(), iter(images)
    first = next(frames)
    for stream in streams:
        stream(first)
        stream.reset()
    for number, image in enumerate(itertools.chain([first], frames)):
        compared = dense if dense is not None and number % every in (0, every - 1) else None
        reference = None
        with no_garbage_collection():
            if compared is not None and number % 2:
                reference = _run_dense(found, compared, image)
            result = _run_streams(found, streams, image)
            if compared is not None and not number % 2:
                reference = _run_dense(found, compared, image)
        if reference is not None:
            found.comparison.add(number, result, reference)
        watch(_frame(found, streams[0], number, image, result))
        tick()
    found.state_bytes = streams[0].nbytes
    return found


def _run_dense(found: Measured, dense: Dense, image: np.ndarray) -> dict[str, np.ndarray]:
    outputs, spent = WALL.time(lambda: dense(image))
    found.dense_wall.append(spent.wall)
    found.dense_cpu.append(spent.cpu)
    return outputs


def _run_streams(found: Measured, streams: Sequence[AnyStream], image: np.ndarray) -> Result:
    """The first stream's answer."""
    answers, spent = zip(*(WALL.time(partial(stream, image)) for stream in streams), strict=True)
    found.wall.append([each.wall for each in spent])
    found.cpu.append([each.cpu for each in spent])
    return answers[0]


def _frame(found: Measured, stream: AnyStream, number: int, image: np.ndarray, result: Result) -> Frame:
    changed, work = stream.changed, stream.work / stream.full_work
    found.work.append(work)
    found.changed.append(1.0 if changed is None else float(changed.mean()))
    found.strategies[", then ".join(result.strategies["stream"])] += 1
    if stream.reason:
        found.reasons[stream.reason] += 1
    return Frame(number, image, result, changed, work, found.wall[-1][0], stream.reason)
