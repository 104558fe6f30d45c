"""Measuring this device: what calls of each local segment and each region's fallback cost, and where they break even.

Everything is timed interleaved, round after round, within a budget, on the bundle's own engines and through the same
gather and scatter as a request. The least time of each probe counts: what a busy machine adds is no property of it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from .costs import DeviceCosts, SegmentCost, SpanCost, guesses
from .costs import fingerprint as fingerprint
from .dims import resolve_shape, symbols_at
from .dirtiness import halo_of
from .executor import Executor
from .grid import RegionGrid, grid_of
from .inputs import Shape
from .manifest import LocalSegment, Pair, Region
from .result import new_timing
from .selective import choice_feeds, plan_region, run_windows
from .spans import SpanReference, SpanScratch
from .state import Reference, Scratch
from .windows import Windows

if TYPE_CHECKING:
    from .model import Model

_LOG = logging.getLogger("foveate")

BUDGET_MS = 1600.0  # leaves room for the first runs within two seconds
_SIDES = (8, 4, 2)  # windows of 1/8, 1/4 and 1/2 of the map's sides
_FRACTIONS = np.linspace(0, 1, 21)
_SPAN_FRACTIONS = (0.02, 0.1, 0.4, 1.0)  # active, in runs by the native kernels
_BELOW = 1 - 1e-6  # so that rounding does not make equal costs a gain
_WHOLE = 0.1  # active fraction of the regions' trial runs …
_WHOLE_SHARE = 0.2  # … and their share of the budget


def measure(model: Model, shape: Shape | None = None, *, budget_ms: float = BUDGET_MS) -> DeviceCosts:
    """The costs of a model's bundle on this device, at `shape` [N, C, H, W] (the plan's sample shape if left out).

    A region whose fallback alone is beyond the budget stays unmeasured, and so dense."""
    return model.measure(shape, budget_ms=budget_ms)


@dataclass
class _Probe:
    run: Callable[[], object]
    cells: int = 0  # of its window; 0 for a fallback
    ms: float = math.inf


@dataclass
class _RegionProbes:
    """`spans`: whole runs by the native kernels, whose `cells` are multiply-adds; a region has these or `segments`."""

    region: Region
    grid: RegionGrid
    fallback: _Probe
    tensors: dict[str, np.ndarray]  # the region's inputs
    state: Scratch
    segments: dict[str, list[_Probe]] = field(default_factory=dict)
    spans: list[_Probe] = field(default_factory=list)
    reference: SpanReference | None = None
    scratch: SpanScratch | None = None


def measure_executor(
    executor: Executor,
    shapes: Mapping[str, Sequence[int]],
    choices: Mapping[str, np.ndarray],
    fingerprint: dict[str, str],
    budget_ms: float = BUDGET_MS,
) -> DeviceCosts:
    """Costs at these input shapes (one image each). Serves no requests meanwhile: the caller holds them back."""
    deadline = perf_counter() + budget_ms / 1e3
    regions = _prepare(executor, shapes, choices)
    probes = [probe for region in regions for probe in _in_order(region)]
    _time(probes, deadline - _WHOLE_SHARE * budget_ms / 1e3)
    first = tuple(int(n) for n in next(iter(shapes.values())))
    segments = _fit_segments(regions)
    dense = {r.region.name: _dense_ms(r, segments) for r in regions if math.isfinite(r.fallback.ms)}
    costs = DeviceCosts(fingerprint, first, segments, dense, guesses=guesses(executor.manifest))
    segments = segments | _with_overhead(executor, _regions_to_run(regions, dense), costs, choices, deadline)
    costs = dataclasses.replace(costs, segments=segments, spans=_fit_spans(regions))
    unknown = [r.region.name for r in regions if r.region.name not in costs.regions]
    if unknown:
        _LOG.warning(
            "%s could not be measured in %.0f ms and stays dense: call model.measure(budget_ms=…) with more",
            ", ".join(unknown),
            budget_ms,
        )
    costs = dataclasses.replace(costs, break_even=_break_even(regions, costs))
    for probes in regions:
        if probes.reference is not None:
            executor.references.give_back(probes.reference, probes.scratch)
    return costs


def _regions_to_run(regions: Sequence[_RegionProbes], dense: Mapping[str, float]) -> list[_RegionProbes]:
    """Those that can run selectively and whose fallback was measured: only they are ever chosen between."""
    return [
        r
        for r in regions
        if r.reference is None and r.region.name in dense and r.region.masks and not r.grid.refusal
    ]


def _with_overhead(
    executor: Executor,
    regions: Sequence[_RegionProbes],
    costs: DeviceCosts,
    choices: Mapping[str, np.ndarray],
    deadline: float,
) -> dict[str, SegmentCost]:
    """The segments' costs, raised by what a region's run takes beyond its calls: planning, restoring, caches that
    one segment leaves cold for the next."""
    trials = [_Trial(executor, r, r.grid.priced(costs), choices) for r in regions]
    probes = [_Probe(trial.run) for trial in trials]
    _time(probes, deadline)
    raised: dict[str, SegmentCost] = {}
    for trial, probe in zip(trials, probes, strict=True):
        if math.isfinite(probe.ms) and trial.predicted_ms > 0:
            factor = max(1.0, probe.ms / trial.predicted_ms)
            for segment in trial.grid.region.segments:
                cost = costs.of(segment.name)
                raised[segment.name] = SegmentCost(factor * cost.fixed_ms, factor * cost.ms_per_cell)
    return raised


class _Trial:
    """A whole selective run of one region, as a request makes it."""

    def __init__(
        self,
        executor: Executor,
        probes: _RegionProbes,
        grid: RegionGrid,
        choices: Mapping[str, np.ndarray],
    ):
        self.grid, self._probes, self._choices = grid, probes, choices
        self._run = executor.selective[grid.region.name].run
        self._reference = Reference({n: np.zeros_like(a) for n, a in probes.state.arrays.items()})
        self._masks = {name: ellipse(grid.sizes[name], _WHOLE) for name in grid.region.masks}
        self.predicted_ms = 0.0

    def run(self) -> None:
        plan = plan_region(self.grid, self._masks)
        assert plan is not None  # there is no budget
        self.predicted_ms = plan.predicted_ms
        state = self._probes.state
        self._run(self.grid, plan, dict(self._probes.tensors), state, self._choices, new_timing())
        self._reference.restore(state)


def _break_even(regions: Sequence[_RegionProbes], costs: DeviceCosts) -> float:
    """Of the regions that can run selectively."""
    chosen = [r for r in regions if r.reference is not None or not r.grid.refusal]
    dense = math.fsum(costs.regions.get(r.region.name, 0.0) for r in chosen)
    return crossing(dense, [lambda f, r=r: _predict(r, costs, f) for r in chosen])


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


def _predict(probes: _RegionProbes, costs: DeviceCosts, fraction: float) -> float:
    masks = _ellipses(probes, fraction)
    if probes.reference is not None and probes.scratch is not None and probes.region.name in costs.spans:
        return costs.spans[probes.region.name].ms(probes.reference.prepare(probes.scratch, masks))
    plan = plan_region(probes.grid.priced(costs), masks)
    return plan.predicted_ms if plan else math.inf


def _ellipses(probes: _RegionProbes, fraction: float) -> dict[str, np.ndarray]:
    return {name: ellipse(probes.grid.sizes[name], fraction) for name in probes.region.masks}


def _prepare(
    executor: Executor, shapes: Mapping[str, Sequence[int]], choices: Mapping[str, np.ndarray]
) -> list[_RegionProbes]:
    """The probes of every region. Nothing is run for it: what tensors hold does not matter for the time."""
    symbols = symbols_at(executor.manifest, shapes)
    manifest = executor.manifest
    specs = {t.name: t for t in (*manifest.tensors, *manifest.outputs, *manifest.inputs)}

    def tensor(name: str) -> np.ndarray:
        return np.full(resolve_shape(specs[name].shape, symbols), 0.5, specs[name].dtype)

    regions = []
    for region in executor.regions:
        try:
            inputs = {name: tensor(name) for name in region.inputs}
            state = Scratch({t.name: tensor(t.name) for s in region.segments for t in s.outputs})
        except KeyError as symbol:  # of a dim that is known when it is there: the region stays dense
            _LOG.warning("%s could not be measured: nothing tells the size of %s", region.name, symbol)
            continue
        engine = executor.engines[region.fallback]
        feeds = {**choice_feeds(engine, choices), **inputs}
        inside = {**inputs, **state.arrays}
        grid = grid_of(region, {name: value.shape for name, value in inside.items()}, executor.costs)
        fallback = _Probe(lambda engine=engine, feeds=feeds: engine.run(feeds))
        probes = _RegionProbes(region, grid, fallback, inputs, state)
        regions.append(probes)
        if region.name in executor.engines.spans:
            if reference := executor.span_reference(region, inputs):
                scratch = executor.references.borrow(reference)
                probes.reference, probes.scratch = reference, scratch
                probes.spans = _span_probes(probes, reference, scratch)
            continue
        for segment, cells in zip(region.segments, grid.cells, strict=True):
            arguments = grid, segment, executor.engines[segment.file]
            probes.segments[segment.name] = [
                _Probe(
                    lambda windows=windows, arguments=arguments, inside=inside, state=state: run_windows(
                        *arguments, windows, inside, state, choices, new_timing()
                    ),
                    windows.area,
                )
                for windows in _probe_windows(segment, cells)
            ]
    return regions


def _span_probes(probes: _RegionProbes, reference: SpanReference, scratch: SpanScratch) -> list[_Probe]:
    """Whole runs at some active fractions, as a request makes them."""

    def run(masks: dict[str, np.ndarray]) -> float:
        work = reference.prepare(scratch, masks)
        reference.run(scratch, dict(probes.tensors))
        reference.restore(scratch)
        return work

    # Run once each, untimed: the first touch of memory is no cost of a request's.
    work = [(masks, run(masks)) for masks in (_ellipses(probes, f) for f in _SPAN_FRACTIONS)]
    return [_Probe(lambda masks=masks: run(masks), int(adds)) for masks, adds in work]


def _probe_windows(segment: LocalSegment, cells: Pair) -> list[Windows]:
    """Squares in the middle, of growing size."""
    height, width = cells
    found: dict[int, Windows] = {}
    for part in _SIDES:
        h, w = max(1, height // part), max(1, width // part)
        y, x = (height - h) // 2, (width - w) // 2
        windows = Windows(np.array([[y, x, y + h, x + w]]), halo_of(segment), cells)
        found.setdefault(windows.area, windows)
    return list(found.values())


def _in_order(probes: _RegionProbes) -> list[_Probe]:
    """The fallback first, then the small windows of all segments, so that a short budget still knows something."""
    sizes = max((len(p) for p in probes.segments.values()), default=0)
    rest = [p[size] for size in range(sizes) for p in probes.segments.values() if size < len(p)]
    return [probes.fallback, *probes.spans, *rest]


def _time(probes: Sequence[_Probe], deadline: float) -> None:
    while probes:
        for probe in probes:
            start = perf_counter()
            if start >= deadline:
                return
            probe.run()
            probe.ms = min(probe.ms, (perf_counter() - start) * 1e3)


def _fit_segments(regions: Sequence[_RegionProbes]) -> dict[str, SegmentCost]:
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
        for segment in () if probes.spans else probes.region.segments:
            if segment.name not in fitted and ratios:
                per_cell = float(np.median(ratios)) * max(segment.macs_per_cell, 1.0)
                fixed = float(np.median([cost.fixed_ms for cost in fitted.values()]))
                fitted[segment.name] = SegmentCost(fixed, per_cell)
    return fitted


def _fit_spans(regions: Sequence[_RegionProbes]) -> dict[str, SpanCost]:
    fitted = {}
    for probes in regions:
        points = [(p.cells, p.ms) for p in probes.spans if math.isfinite(p.ms) and p.cells]
        if points:
            cost = fit(points)
            fitted[probes.region.name] = SpanCost(cost.fixed_ms, cost.ms_per_cell * 1e6)
    return fitted


def _dense_ms(probes: _RegionProbes, segments: Mapping[str, SegmentCost]) -> float:
    """What the fallback took, but less than its segments on whole maps should: it computes the same in one call,
    and where time was short its only run was a cold one."""
    costs = [segments.get(s.name) for s in probes.region.segments]
    whole = [
        cost.fixed_ms + cost.ms_per_cell * math.prod(cells)
        for cost, cells in zip(costs, probes.grid.cells, strict=True)
        if cost is not None
    ]
    return (
        min(probes.fallback.ms, _BELOW * math.fsum(whole)) if len(whole) == len(costs) else probes.fallback.ms
    )


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
