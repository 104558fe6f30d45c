"""The paced stream: K videos at a fixed rate, served one frame at a time. How many frames come too late?

Service times are measured back to back; arrivals are on a virtual clock, so that a result takes no longer than the
computing and does not depend on how a machine sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pace:
    """`misses`: frames that were not done when the next of their stream arrived. Frames are served in their order of
    arrival and none is dropped. `load`: computing ÷ time, above 1 the queue grows without end. `latest_ms`: the longest
    time from a frame's arrival to its answer."""

    frames: int
    misses: int
    load: float
    latest_ms: float


def pace(service_ms: np.ndarray, fps: float) -> Pace:
    """service_ms: [frames, streams]. Frame i of stream k of K arrives at (i + k / K) / fps."""
    frames, streams = service_ms.shape
    period = 1e3 / fps
    arrivals = (period / streams * np.arange(service_ms.size)).tolist()
    free = latest = 0.0
    misses = 0
    for arrival, service in zip(arrivals, service_ms.ravel().tolist(), strict=True):
        free = max(free, arrival) + service
        misses += free > arrival + period
        latest = max(latest, free - arrival)
    return Pace(service_ms.size, misses, float(service_ms.sum() / (frames * period)), latest)
