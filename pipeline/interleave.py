"""The timing core: contenders take turns in one process, A B B A …; a machine's drift hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .statistics import Ratio, bootstrap_ratio

Contender = Callable[[np.ndarray], object]  # one inference of one image
T = TypeVar("T")

FEW_IMAGES = 16  # an interval over fewer says little


@dataclass(frozen=True)
class Times:
    """Times of each contender, ms, [images, rounds]. CPU time is the whole process's, all its threads."""

    wall: dict[str, np.ndarray]
    cpu: dict[str, np.ndarray]

    def per_image(self, name: str) -> np.ndarray:
        """[images]: the median over rounds, so that one interruption by another process does not count."""
        return np.median(self.wall[name], axis=1)

    def ms(self, name: str) -> float:
        return float(self.per_image(name).mean())

    def cpu_ms(self, name: str) -> float:
        return float(np.median(self.cpu[name], axis=1).mean())

    def ratio(self, of: str, to: str) -> Ratio:
        """ms(of) ÷ ms(to), with the bootstrap interval over images; of few images, over every call."""
        value = self.ms(of) / self.ms(to)
        few = len(self.wall[of]) < FEW_IMAGES
        above, below = (self.wall[name].ravel() if few else self.per_image(name) for name in (of, to))
        found = bootstrap_ratio(above, below)
        return Ratio(value, min(found.low, value), max(found.high, value))


def interleave(
    contenders: Mapping[str, Contender],
    images: Sequence[np.ndarray],
    rounds: int = 4,
    tick: Callable[[], None] = lambda: None,
    prepare: Callable[[int], None] = lambda number: None,
) -> Times:
    """Time every contender on every image `rounds` times, the order of contenders reversed at every step.

    Everything runs once untimed first; answers are dropped. `tick` is called after each image of each round,
    `prepare` with the image's number before its calls, untimed.
    """
    names = list(contenders)
    shape = (len(images), rounds)
    wall = {name: np.zeros(shape) for name in names}
    cpu = {name: np.zeros(shape) for name in names}
    _warm_up(contenders, images, prepare)
    with no_garbage_collection():
        for turn in range(rounds):
            for number, image in enumerate(images):
                prepare(number)
                for name in names if (turn + number) % 2 == 0 else reversed(names):
                    _, wall[name][number, turn], cpu[name][number, turn] = timed(contenders[name], image)
                tick()
    return Times(wall, cpu)


def timed(contender: Callable[[np.ndarray], T], image: np.ndarray) -> tuple[T, float, float]:
    """What one inference gives, its wall time and the process's CPU time in it, ms."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = contender(image)
    spent = time.process_time() - cpu
    return answer, 1e3 * (time.perf_counter() - wall), 1e3 * spent


def _warm_up(
    contenders: Mapping[str, Contender], images: Sequence[np.ndarray], prepare: Callable[[int], None]
) -> None:
    """One call on the first image of each shape: engines allocate, reference states are computed."""
    firsts = {image.shape: number for number, image in reversed(list(enumerate(images)))}
    for number in sorted(firsts.values()):
        prepare(number)
        for contender in contenders.values():
            contender(images[number])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
