"""What is timed to know a device's costs, and what follows from the times.

Everything is timed interleaved, round after round, within a budget, on the bundle's own engines and through the same
gather and scatter as a request. The least time of each probe counts: what a busy machine adds is no property of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from .costs import DeviceCosts, SegmentCost
from .grid import RegionGrid
from .manifest import Region

_LOG = logging.getLogger("foveate")

BUDGET_MS = 1600.0  # leaves room for the first runs within two seconds
WHOLE = 0.1  # active fraction of the regions' trial runs …
WHOLE_SHARE = 0.2  # … and their share of the budget
_FRACTIONS = np.linspace(0, 1, 21)
_BELOW = 1 - 1e-6  # so that rounding does not make equal costs a gain


@dataclass
class Probe:
    run: Callable[[], object]
    cells: int = 0  # of its windows; 0 for a fallback
    ms: float = math.inf


@dataclass
class RegionProbes:
    """Of a region, on batches of so many images."""

    region: Region
    grid: RegionGrid
    fallback: Probe
    segments: dict[str, list[Probe]]
    images: int = 1

    @property
    def in_order(self) -> list[Probe]:
        """The fallback first, then the small windows of all segments, so that a short budget still knows something."""
        sizes = max((len(p) for p in self.segments.values()), default=0)
        windows = [p[size] for size in range(sizes) for p in self.segments.values() if size < len(p)]
        return [self.fallback, *windows]


def host_ms(run: Callable[[], object]) -> float:
    start = perf_counter()
    run()
    return (perf_counter() - start) * 1e3


def time_probes(
    probes: Sequence[Probe],
    deadline: float,
    time_ms: Callable[[Callable[[], object]], float] = host_ms,
) -> None:
    """Round after round, until `deadline` on the clock of perf_counter; `time_ms` runs something and gives its ms."""
    while probes:
        for probe in probes:
            if perf_counter() >= deadline:
                return
            probe.ms = min(probe.ms, time_ms(probe.run))


def fit_segments(regions: Sequence[RegionProbes]) -> dict[str, SegmentCost]:
    """Segments that the budget did not reach are priced by their multiply-accumulates like the others."""
    fitted: dict[str, SegmentCost] = {}
    ratios: list[float] = []
    for probes in regions:
        for segment in probes.region.segments:
            points = [(p.cells, p.ms) for p in probes.segments.get(segment.name, ()) if math.isfinite(p.ms)]
            if points:
                fitted[segment.name] = fit(points)
                ratios.append(fitted[segment.name].ms_per_cell / max(segment.macs_per_cell, 1.0))
    for probes in regions:
        for segment in probes.region.segments if probes.segments else ():
            if segment.name not in fitted and ratios:
                per_cell = float(np.median(ratios)) * max(segment.macs_per_cell, 1.0)
                fixed = float(np.median([cost.fixed_ms for cost in fitted.values()]))
                fitted[segment.name] = SegmentCost(fixed, per_cell)
    return fitted


def dense_ms(probes: RegionProbes, segments: Mapping[str, SegmentCost]) -> float:
    """What the fallback took, but less than its segments on whole maps should: it computes the same in one call,
    and where time was short its only run was a cold one."""
    costs = [segments.get(s.name) for s in probes.region.segments]
    whole = [
        cost.fixed_ms + cost.ms_per_cell * math.prod(cells) * probes.images
        for cost, cells in zip(costs, probes.grid.cells, strict=True)
        if cost is not None
    ]
    return (
        min(probes.fallback.ms, _BELOW * math.fsum(whole)) if len(whole) == len(costs) else probes.fallback.ms
    )


def raised_costs(
    regions: Sequence[tuple[Region, float, float]], costs: DeviceCosts
) -> dict[str, SegmentCost]:
    """The segments' costs, raised by what a whole run of their region took beyond what was predicted of it. `regions`:
    with the ms of both."""
    raised: dict[str, SegmentCost] = {}
    for region, ms, predicted_ms in regions:
        if math.isfinite(ms) and predicted_ms > 0:
            factor = max(1.0, ms / predicted_ms)
            for segment in region.segments:
                cost = costs.of(segment.name)
                raised[segment.name] = SegmentCost(factor * cost.fixed_ms, factor * cost.ms_per_cell)
    return raised


def lowered_costs(
    regions: Sequence[tuple[Region, float, float, float]], costs: DeviceCosts
) -> dict[str, SegmentCost]:
    """The segments' costs, less what a replay of their region's whole run saves of calls. `regions`: with the ms that
    it took, that were predicted, and those of the prediction that are not for cells."""
    lowered: dict[str, SegmentCost] = {}
    for region, ms, predicted_ms, calls_ms in regions:
        saved_ms = predicted_ms - ms
        if saved_ms > 0 and calls_ms > 0:
            for segment in region.segments:
                cost = costs.of(segment.name)
                fixed_ms = max(0.0, 1 - saved_ms / calls_ms) * cost.fixed_ms
                lowered[segment.name] = SegmentCost(fixed_ms, cost.ms_per_cell)
    return lowered


def warn_of_unknown(regions: Sequence[RegionProbes], costs: DeviceCosts, budget_ms: float) -> None:
    unknown = [r.region.name for r in regions if r.region.name not in costs.regions]
    if unknown:
        _LOG.warning(
            "%s could not be measured in %.0f ms and stays dense: call model.measure(budget_ms=…) with more",
            ", ".join(unknown),
            budget_ms,
        )


def crossing(dense: float, predictions: Sequence[Callable[[float], float]]) -> float:
    """The active fraction of an ellipse in the middle at which selective runs are predicted to cost what `dense` does.
    Each prediction gives the ms of one region at a fraction."""
    before = 0.0
    if not predictions or dense == 0.0:
        return 0.0
    for index, fraction in enumerate(_FRACTIONS):
        selective = math.fsum(predict(float(fraction)) for predict in predictions)
        if selective >= dense:
            step = (dense - before) / (selective - before) if index and selective > before else 0.0
            return float(max(0.0, fraction - (1 - step) * _FRACTIONS[1]))
        before = selective
    return 1.0


def ellipse(size: tuple[int, int], fraction: float) -> np.ndarray:
    """bool [h, w] with that fraction of the positions active: those nearest to the centre, relative to the sides."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in size)
    distance = (y**2)[:, None] + (x**2)[None]
    active = np.zeros(distance.size, bool)
    active[np.argsort(distance, axis=None, kind="stable")[: round(fraction * distance.size)]] = True
    return active.reshape(size)


def fit(points: Sequence[tuple[int, float]]) -> SegmentCost:
    """fixed + per_cell × cells through (cells, ms) points, by least squares of the relative error, neither negative."""
    cells, ms = (np.array(column, float) for column in zip(*points, strict=True))
    if len(points) > 1:
        (fixed, per_cell), *_ = np.linalg.lstsq(
            np.stack([1 / ms, cells / ms], 1), np.ones(len(ms)), rcond=None
        )
        if fixed >= 0 and per_cell > 0:
            return SegmentCost(float(fixed), float(per_cell))
    largest = int(cells.argmax())
    return SegmentCost(0.0, float(ms[largest] / cells[largest]))
