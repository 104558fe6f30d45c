"""The timing core: contenders take turns in one process, A B B A …; a machine's drift hits all alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .statistics import Ratio, bootstrap_ratio
from .timers import WALL, Timer

Contender = Callable[[Any], object]  # one inference of one image

FEW_IMAGES = 16  # an interval over fewer says little


@dataclass(frozen=True)
class Times:
    """Times of each contender, ms, [images, rounds], as in `timers.Spent`."""

    wall: dict[str, np.ndarray]
    cpu: dict[str, np.ndarray]
    enqueue: dict[str, np.ndarray]

    def per_image(self, name: str) -> np.ndarray:
        """[images]: the median over rounds, so that one interruption by another process does not count."""
        return np.median(self.wall[name], axis=1)

    def ms(self, name: str) -> float:
        return float(self.per_image(name).mean())

    def cpu_ms(self, name: str) -> float:
        return float(np.median(self.cpu[name], axis=1).mean())

    def enqueue_ms(self, name: str) -> float:
        return float(np.median(self.enqueue[name], axis=1).mean())

    def ratio(self, of: str, to: str) -> Ratio:
        """ms(of) ÷ ms(to), with the bootstrap interval over images; of few images, over every call."""
        value = self.ms(of) / self.ms(to)
        few = len(self.wall[of]) < FEW_IMAGES
        above, below = (self.wall[name].ravel() if few else self.per_image(name) for name in (of, to))
        found = bootstrap_ratio(above, below)
        return Ratio(value, min(found.low, value), max(found.high, value))


def interleave(
    contenders: Mapping[str, Contender],
    images: Sequence[Any],
    rounds: int = 4,
    tick: Callable[[], None] = lambda: None,
    prepare: Callable[[int], None] = lambda number: None,
    timer: Timer = WALL,
    observe: Callable[[str, Any], None] = lambda name, answer: None,
) -> Times:
    """Time every contender on every image `rounds` times, the order of contenders reversed at every step.

    Everything runs once untimed first. `tick` is called after each image of each round, `prepare` with the image's
    number before its calls, `observe` with a contender's name and answer, all untimed. A step that `timer` does not
    accept is timed again, and not observed.
    """
    names = list(contenders)
    shape = (len(images), rounds)
    times = Times(*({name: np.zeros(shape) for name in names} for _ in range(3)))
    _warm_up(contenders, images, prepare)
    timer.settle(lambda: [contender(images[0]) for contender in contenders.values()])
    with no_garbage_collection():
        for turn in range(rounds):
            for number, image in enumerate(images):
                order = names if (turn + number) % 2 == 0 else names[::-1]
                while True:
                    prepare(number)
                    answers = {}
                    for name in order:
                        answers[name], spent = timer.time(partial(contenders[name], image))
                        times.wall[name][number, turn] = spent.wall
                        times.cpu[name][number, turn] = spent.cpu
                        times.enqueue[name][number, turn] = spent.enqueue
                    if timer.accept():
                        break
                for name, answer in answers.items():
                    observe(name, answer)
                tick()
    return times


def _warm_up(
    contenders: Mapping[str, Contender], images: Sequence[Any], prepare: Callable[[int], None]
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
