"""How one call is timed: by the wall clock; `gpu/timer.py` does it by a device's own events."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """ms of one call. `cpu`: of the whole process, all its threads. `enqueue`: of the host until the call returned,
    without what it waited for a device; where nothing is queued, all of it."""

    wall: float
    cpu: float
    enqueue: float


class Timer(Protocol):
    def settle(self, run: Callable[[], object]) -> None:
        """Called before the first timed call; calls `run` until the machine is in the state that it will keep."""
        ...

    def time(self, call: Callable[[], T]) -> tuple[T, Spent]: ...

    def accept(self) -> bool:
        """Whether what was timed since it was asked last counts; else it is timed again."""
        ...


class WallTimer:
    """For work that is done when the call returns."""

    def settle(self, run: Callable[[], object]) -> None:
        """The machine's clocks are not this process's to judge: contenders take turns instead."""

    def time(self, call: Callable[[], T]) -> tuple[T, Spent]:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = call()
        spent = time.process_time() - cpu
        took = 1e3 * (time.perf_counter() - wall)
        return answer, Spent(took, 1e3 * spent, took)

    def accept(self) -> bool:
        return True


WALL = WallTimer()
