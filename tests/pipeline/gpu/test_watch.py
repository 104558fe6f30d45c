"""What is accepted of a measurement, with a GPU in the place of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

import numpy as np
import pytest
from foveate.pipeline.gpu.nvml import GpuState
from foveate.pipeline.gpu.watch import REJECT, REST_S, SETTLE_S, Watch
from foveate.pipeline.interleave import interleave
from foveate.pipeline.timers import WALL

IMAGES = [np.zeros((1, 1, 2, 2), np.float32)] * 3


class FakeGpu:
    """Its states are scripted; the last one stays."""

    name, driver, most_sm_mhz, most_watts = "Some GPU", "580.1", 2000.0, 450.0

    def __init__(self, *states: GpuState):
        self._states: Iterator[GpuState] = chain(states, repeat(states[-1]))

    def state(self) -> GpuState:
        return next(self._states)

    def joules(self) -> float | None:
        return None


def state(mhz: float = 1900.0, *reasons: str) -> GpuState:
    return GpuState(mhz, 9000.0, 60.0, 300.0, reasons)


class Watched:
    """The wall clock under a watch."""

    def __init__(self, watch: Watch):
        self.settle, self.accept, self.time = lambda run: None, watch.accept, WALL.time


def fast_clock(step: float = 0.05):
    now = iter(n * step for n in range(100_000))
    return lambda: next(now)


def test_a_throttled_step_is_rested_and_timed_again():
    rests: list[float] = []
    hot = state(1200.0, "hardware thermal slowdown")
    watch = Watch(FakeGpu(state(), hot, hot, state()), rests.append)
    calls: list[int] = []
    interleave({"a": lambda image: calls.append(1)}, IMAGES, rounds=1, timer=Watched(watch))
    assert len(calls) == 1 + 3 + 2  # untimed, timed, timed again
    assert rests == [REST_S] * 2
    facts = watch.facts()
    assert facts is not None and (facts["rejected"], facts["kept_throttled"]) == (2, 0)
    assert facts["reasons"] == {"hardware thermal slowdown": 2 / 5}


def test_rejecting_ends_and_what_is_kept_is_counted():
    watch = Watch(FakeGpu(state(900.0, "power brake")), lambda _: None)
    interleave({"a": lambda image: None}, IMAGES, rounds=2, timer=Watched(watch))
    assert (watch.rejected, watch.kept) == (REJECT, 6)


@pytest.mark.parametrize("reason", ["power cap", "idle", "applications clocks setting"])
def test_what_a_card_always_does_is_reported_and_accepted(reason):
    watch = Watch(FakeGpu(state(1500.0, reason)))
    assert watch.accept()
    facts = watch.facts()
    assert facts is not None and facts["reasons"] == {reason: 1.0} and facts["rejected"] == 0


def test_it_runs_until_the_clocks_are_stable():
    runs: list[int] = []
    rising = [state(mhz) for mhz in (300.0, 900.0, 1500.0, 1900.0)]
    watch = Watch(FakeGpu(*rising, state(1910.0)))
    watch.settle(lambda: runs.append(1), fast_clock())
    assert watch.settled and len(runs) >= 8  # the four that rise, and five that differ by less than 2 %


def test_clocks_that_never_settle_are_said():
    states = [state(mhz) for _ in range(200) for mhz in (1000.0, 1900.0)]
    watch, clock = Watch(FakeGpu(*states)), fast_clock()
    watch.settle(lambda: None, clock)
    assert watch.settled is False and clock() < SETTLE_S + 2
    assert watch.accept() and (watch.facts() or {})["settled"] is False


def test_a_gpu_that_nobody_can_ask_is_not_guessed_at():
    watch, runs = Watch(None), []
    watch.settle(lambda: runs.append(1))
    assert watch.accept() and watch.facts() is None and len(runs) == 1
