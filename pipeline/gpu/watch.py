"""Whether a GPU is in a state in which a measurement means something: clocks are watched, and what was timed while the
GPU protected itself from heat or for want of power is timed again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from .nvml import Gpu, GpuState

# The power cap is left out: a small card works at it all the time, and users' cards as well. It is reported.
THROTTLED = frozenset(
    {"hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake"}
)
STEADY, SAMPLES = 0.02, 5  # clocks are stable when so many samples differ by no more
SAMPLE_S, SETTLE_S = 0.2, 15.0  # between samples, and at most in all
REJECT, REST_S = 20, 2.0  # steps at most, and how long the GPU rests before each is timed again


class Watch:
    """Of one benchmark. Without NVML (`gpu` None) it accepts everything, for it knows nothing."""

    def __init__(self, gpu: Gpu | None, sleep: Callable[[float], None] = time.sleep):
        self.gpu, self._sleep = gpu, sleep
        self.rejected = self.kept = 0
        self.settled: bool | None = None
        self._seen: list[GpuState] = []

    def settle(self, run: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        """Runs until the clocks are stable, for 15 s at most. `run` waits for what it queues."""
        if self.gpu is None:
            run()
            return
        end, found = clock() + SETTLE_S, list[float]()
        while True:
            until = clock() + SAMPLE_S
            while True:
                run()
                if clock() >= until:
                    break
            found.append(self.gpu.state().sm_mhz)
            last = found[-SAMPLES:]
            stable = len(last) == SAMPLES and max(last) - min(last) <= STEADY * max(last)
            if stable or clock() >= end:
                break
        self.settled = stable and self.settled is not False

    def accept(self) -> bool:
        """Asked after each step of a measurement, while its work is still warm. What was throttled is rejected, with a
        rest, a bounded number of times; then it is kept, and `facts` say so."""
        if self.gpu is None:
            return True
        state = self.gpu.state()
        self._seen.append(state)
        if THROTTLED.isdisjoint(state.reasons):
            return True
        if self.rejected < REJECT:
            self.rejected += 1
            self._sleep(REST_S)
            return False
        self.kept += 1
        return True

    def facts(self) -> dict[str, Any] | None:
        """As in docs/report.md, `gpu.watched`."""
        if self.gpu is None or not self._seen:
            return None
        reasons = Counter(reason for state in self._seen for reason in state.reasons)
        return {
            "samples": len(self._seen),
            "sm_mhz": self._range("sm_mhz"),
            "memory_mhz": self._range("memory_mhz"),
            "celsius": self._range("celsius"),
            "watts": self._range("watts"),
            "most_sm_mhz": self.gpu.most_sm_mhz,
            "most_watts": self.gpu.most_watts,
            "reasons": {reason: n / len(self._seen) for reason, n in sorted(reasons.items())},
            "settled": bool(self.settled),
            "rejected": self.rejected,
            "kept_throttled": self.kept,
        }

    def _range(self, field: str) -> dict[str, float]:
        values = [getattr(state, field) for state in self._seen]
        return {"least": min(values), "mean": float(np.mean(values)), "most": max(values)}
