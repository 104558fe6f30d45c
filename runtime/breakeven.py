"""Measuring this machine: what calls of each local segment and each region's fallback cost, and where they break
even."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from .costs import DeviceCosts, SegmentCost, SpanCost, guesses
from .costs import fingerprint as fingerprint
from .dims import resolve_shape, symbols_at
from .dirtiness import halo_of
from .grid import RegionGrid, grid_of
from .inputs import Shape
from .manifest import LocalSegment, Pair
from .probes import (
    BUDGET_MS,
    WHOLE,
    WHOLE_SHARE,
    Probe,
    RegionProbes,
    crossing,
    dense_ms,
    ellipse,
    fit,
    fit_segments,
    raised_costs,
    time_probes,
    warn_of_unknown,
)
from .result import new_timing
from .selective import choice_feeds, plan_region, run_windows
from .spans import SpanReference, SpanScratch
from .state import Reference, Scratch
from .windows import Windows

if TYPE_CHECKING:
    from .executor import Executor
    from .model import Model

_LOG = logging.getLogger("foveate")

_SIDES = (8, 4, 2)  # windows of 1/8, 1/4 and 1/2 of the map's sides
_SPAN_FRACTIONS = (0.02, 0.1, 0.4, 1.0)  # active, in runs by the native kernels


def measure(model: Model, shape: Shape | None = None, *, budget_ms: float = BUDGET_MS) -> DeviceCosts:
    """The costs of a model's bundle on this device, at `shape` [N, C, H, W] (the plan's sample shape if left out).

    A region whose fallback alone is beyond the budget stays unmeasured, and so dense."""
    return model.measure(shape, budget_ms=budget_ms)


@dataclass
class _HostProbes(RegionProbes):
    """`spans`: whole runs by the native kernels, whose `cells` are multiply-adds; a region has these or `segments`."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)  # the region's inputs
    state: Scratch = field(default_factory=lambda: Scratch({}))
    spans: list[Probe] = field(default_factory=list)
    reference: SpanReference | None = None
    scratch: SpanScratch | None = None

    @property
    def in_order(self) -> list[Probe]:
        first, *windows = super().in_order
        return [first, *self.spans, *windows]


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
    probes = [probe for region in regions for probe in region.in_order]
    time_probes(probes, deadline - WHOLE_SHARE * budget_ms / 1e3)
    first = tuple(int(n) for n in next(iter(shapes.values())))
    segments = fit_segments(regions)
    dense = {r.region.name: dense_ms(r, segments) for r in regions if math.isfinite(r.fallback.ms)}
    costs = DeviceCosts(fingerprint, first, segments, dense, guesses=guesses(executor.manifest))
    segments = segments | _with_overhead(executor, _regions_to_run(regions, dense), costs, choices, deadline)
    costs = dataclasses.replace(costs, segments=segments, spans=_fit_spans(regions))
    warn_of_unknown(regions, costs, budget_ms)
    costs = dataclasses.replace(costs, break_even=_break_even(regions, costs))
    for probes in regions:
        if probes.reference is not None:
            executor.references.give_back(probes.reference, probes.scratch)
    return costs


def _regions_to_run(regions: Sequence[_HostProbes], dense: Mapping[str, float]) -> list[_HostProbes]:
    """Those that can run selectively and whose fallback was measured: only they are ever chosen between."""
    return [
        r
        for r in regions
        if r.reference is None and r.region.name in dense and r.region.masks and not r.grid.refusal
    ]


def _with_overhead(
    executor: Executor,
    regions: Sequence[_HostProbes],
    costs: DeviceCosts,
    choices: Mapping[str, np.ndarray],
    deadline: float,
) -> dict[str, SegmentCost]:
    """The segments' costs, raised by what a region's run takes beyond its calls: planning, restoring, caches that
    one segment leaves cold for the next."""
    trials = [_Trial(executor, r, r.grid.priced(costs), choices) for r in regions]
    probes = [Probe(trial.run) for trial in trials]
    time_probes(probes, deadline)
    pairs = zip(trials, probes, strict=True)
    return raised_costs([(trial.grid.region, probe.ms, trial.predicted_ms) for trial, probe in pairs], costs)


class _Trial:
    """A whole selective run of one region, as a request makes it."""

    def __init__(
        self,
        executor: Executor,
        probes: _HostProbes,
        grid: RegionGrid,
        choices: Mapping[str, np.ndarray],
    ):
        self.grid, self._probes, self._choices = grid, probes, choices
        self._run = executor.selective[grid.region.name].run
        self._reference = Reference({n: np.zeros_like(a) for n, a in probes.state.arrays.items()})
        self._masks = {name: ellipse(grid.sizes[name], WHOLE) for name in grid.region.masks}
        self.predicted_ms = 0.0

    def run(self) -> None:
        plan = plan_region(self.grid, self._masks)
        assert plan is not None  # there is no budget
        self.predicted_ms = plan.predicted_ms
        state = self._probes.state
        self._run(self.grid, plan, dict(self._probes.tensors), state, self._choices, new_timing())
        self._reference.restore(state)


def _break_even(regions: Sequence[_HostProbes], costs: DeviceCosts) -> float:
    """Of the regions that can run selectively."""
    chosen = [r for r in regions if r.reference is not None or not r.grid.refusal]
    dense = math.fsum(costs.regions.get(r.region.name, 0.0) for r in chosen)
    return crossing(dense, [lambda f, r=r: _predict(r, costs, f) for r in chosen])


def _predict(probes: _HostProbes, costs: DeviceCosts, fraction: float) -> float:
    masks = _ellipses(probes, fraction)
    if probes.reference is not None and probes.scratch is not None and probes.region.name in costs.spans:
        return costs.spans[probes.region.name].ms(probes.reference.prepare(probes.scratch, masks))
    plan = plan_region(probes.grid.priced(costs), masks)
    return plan.predicted_ms if plan else math.inf


def _ellipses(probes: _HostProbes, fraction: float) -> dict[str, np.ndarray]:
    return {name: ellipse(probes.grid.sizes[name], fraction) for name in probes.region.masks}


def _prepare(
    executor: Executor, shapes: Mapping[str, Sequence[int]], choices: Mapping[str, np.ndarray]
) -> list[_HostProbes]:
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
        fallback = Probe(lambda engine=engine, feeds=feeds: engine.run(feeds))
        probes = _HostProbes(region, grid, fallback, {}, tensors=inputs, state=state)
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
                Probe(
                    lambda windows=windows, arguments=arguments, inside=inside, state=state: run_windows(
                        *arguments, windows, inside, state, choices, new_timing()
                    ),
                    windows.area,
                )
                for windows in _probe_windows(segment, cells)
            ]
    return regions


def _span_probes(probes: _HostProbes, reference: SpanReference, scratch: SpanScratch) -> list[Probe]:
    """Whole runs at some active fractions, as a request makes them."""

    def run(masks: dict[str, np.ndarray]) -> float:
        work = reference.prepare(scratch, masks)
        reference.run(scratch, dict(probes.tensors))
        reference.restore(scratch)
        return work

    # Run once each, untimed: the first touch of memory is no cost of a request's.
    work = [(masks, run(masks)) for masks in (_ellipses(probes, f) for f in _SPAN_FRACTIONS)]
    return [Probe(lambda masks=masks: run(masks), int(adds)) for masks, adds in work]


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


def _fit_spans(regions: Sequence[_HostProbes]) -> dict[str, SpanCost]:
    fitted = {}
    for probes in regions:
        points = [(p.cells, p.ms) for p in probes.spans if math.isfinite(p.ms) and p.cells]
        if points:
            cost = fit(points)
            fitted[probes.region.name] = SpanCost(cost.fixed_ms, cost.ms_per_cell * 1e6)
    return fitted
