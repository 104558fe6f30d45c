"""Energy by a GPU's own counter, which moves some ten times a second: a run of seconds is asked for its total."""

from __future__ import annotations

import time
from collections.abc import Callable

from .nvml import Gpu

SECONDS = 3.0


def joules_per_call(
    gpu: Gpu, run: Callable[[], object], clock: Callable[[], float] = time.monotonic
) -> float | None:
    """Of the whole card, idle power included, while `run`, which waits for what it queues, is called again and again.
    None where the GPU does not count energy."""
    before = gpu.joules()
    if before is None:
        return None
    start, calls = clock(), 0
    while clock() - start < SECONDS:
        run()
        calls += 1
    after = gpu.joules()
    return None if after is None or not calls else (after - before) / calls
