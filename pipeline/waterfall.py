"""The waterfall: where a request's time goes, from the runtime's own timing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..runtime import Result
from ..runtime.manifest import Manifest

# The runtime's phases (runtime/result.py) in the order of the work, and what they are called in the report.
PARTS = {
    "dense": "stem, decision, tail",
    "plan": "plan",
    "gather": "gather",
    "compute": "compute",
    "scatter": "scatter",
    "restore": "restore",
    "fallback": "fallback",
}


class Waterfall:
    """Collects results of timed calls."""

    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self.timings: list[dict[str, float]] = []
        self.runs: list[str] = []  # strategy of every run of a region

    def record(self, result: Result) -> None:
        self.timings.append(dict(result.timing))
        self.runs.extend(used for images in result.strategies.values() for used in images)

    def parts(self, total_ms: float) -> list[dict[str, Any]]:
        """Means over the calls, scaled so that with `other` they add up to `total_ms`."""
        totals = np.array([timing["total"] for timing in self.timings])
        scale = total_ms / totals.mean()
        found = {
            name: scale * float(np.mean([timing.get(phase, 0.0) for timing in self.timings]))
            for phase, name in PARTS.items()
        }
        found["other"] = max(0.0, total_ms - sum(found.values()))
        return [{"part": name, "ms": ms} for name, ms in found.items() if ms > 0]

    def strategies(self) -> dict[str, float]:
        return {used: self.runs.count(used) / len(self.runs) for used in sorted(set(self.runs), reverse=True)}
