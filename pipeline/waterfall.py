"""The waterfall: where a request's time goes, from the runtime's own timing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..runtime import Result
from ..runtime.manifest import DenseSegment, ExitChain, ExitGraph, ExitPaths, Manifest, Region

WHOLE = "whole program"  # one engine ran all of it
PARTS = ("plan", "gather", "compute", "scatter", "restore", "fallback")  # the runtime's phases of regions


class Waterfall:
    """Collects results of timed calls."""

    def __init__(self, manifest: Manifest):
        self._places = _places(manifest)
        self._calls: list[dict[str, float]] = []
        self._totals: list[float] = []
        self._runs: list[str] = []  # strategy of every run of a region

    def record(self, result: Result) -> None:
        self._calls.append(self._parts_of(result))
        self._totals.append(result.timing["total"])
        self._runs.extend(used for images in result.strategies.values() for used in images)

    def parts(self, total_ms: float) -> list[dict[str, Any]]:
        """Means over the calls in the order of the work, scaled so that with `other` they add up to `total_ms`."""
        scale = total_ms / float(np.mean(self._totals))
        before = [name for name in dict.fromkeys(self._places.values()) if name != "tail"]
        found = {
            name: scale * float(np.mean([call.get(name, 0.0) for call in self._calls]))
            for name in (WHOLE, *before, *PARTS, "tail")
        }
        found["other"] = max(0.0, total_ms - sum(found.values()))
        return [{"part": name, "ms": ms} for name, ms in found.items() if ms > 0]

    def strategies(self) -> dict[str, float]:
        return {
            used: self._runs.count(used) / len(self._runs) for used in sorted(set(self._runs), reverse=True)
        }

    def _parts_of(self, result: Result) -> dict[str, float]:
        parts = {name: result.timing[name] for name in PARTS}
        for segment, ms in result.segments.items():
            parts[self._places[segment]] = parts.get(self._places[segment], 0.0) + ms
        return {WHOLE: result.timing["dense"] - sum(result.segments.values()), **parts}


def _places(manifest: Manifest) -> Mapping[str, str]:
    """Dense segment -> its part: stem before the first region, tail behind the last, with the decisions it makes;
    without regions head behind the exits."""
    regions = [number for number, step in enumerate(manifest.steps) if isinstance(step, Region)]
    places, behind = {}, False
    for number, step in enumerate(manifest.steps):
        if isinstance(step, DenseSegment):
            place = "between" if regions else "head" if behind else "stem"
            if regions and number < regions[0]:
                place = "stem"
            elif regions and number > regions[-1]:
                place = "tail"
            made = [d.name for d in manifest.decisions if d.keep in step.outputs]
            places[step.name] = f"{place} and {', '.join(made)}" if made else place
        elif isinstance(step, ExitChain):
            behind = True
            places.update((f"{step.name}.{stage.exit}", f"layers to {stage.exit}") for stage in step.stages)
        elif isinstance(step, ExitPaths):
            places.update((f"{step.name}.{path.exit}", f"{path.exit} layers and head") for path in step.paths)
        elif isinstance(step, ExitGraph):
            places[step.name] = "stem, layers and head"
    return places
