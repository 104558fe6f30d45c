"""Runs a bundle's steps for one batch: dense segments on whole batches, regions image by image."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from .costs import DeviceCosts
from .decisions import check_decision
from .dims import Symbols, count_bytes
from .engines import Engines
from .errors import EngineError
from .exit_costs import ExitCosts
from .exits import check_depths, run_exits, run_paths
from .geometry import support
from .grid import RegionGrid, grid_of
from .guard import Guard
from .manifest import DenseSegment, ExitChain, ExitGraph, ExitPaths, ExitStage, ExitStep, Manifest, Region
from .result import Timing, detach, new_timing
from .selective import SelectiveExecutor, choice_feeds, plan_region
from .spans import SpanReference
from .state import Cached, Reference, ReferenceCache

_LOG = logging.getLogger("foveate")
Tensors = dict[str, np.ndarray]
_MUST_WIN = 0.93  # of the fallback's time must a selective run be predicted to take at most: predictions err


@dataclass
class Request:
    """One batch on its way through the steps. `elements`: input values of one image, to scale dense costs by.
    `symbols`: the values of symbolic dims for one image."""

    tensors: Tensors
    batch: int
    elements: int
    strategy: str
    choices: Mapping[str, np.ndarray]
    symbols: Symbols = field(default_factory=dict)
    observe: bool = False  # alone on the machine, as far as we know: its times are evidence for the guard
    timing: Timing = field(default_factory=new_timing)
    segments: dict[str, float] = field(default_factory=dict)  # ms by dense segment
    strategies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    leases: list[tuple[Cached, Any]] = field(default_factory=list)  # with the scratch borrowed from each
    checked: bool = True  # decisions that are not finite are refused
    fed: frozenset[int] = (
        frozenset()
    )  # ids of arrays that are not this request's own: the caller's, or shared
    whole: bool = False  # ran as one engine
    shapes: tuple[tuple[int, ...], ...] = ()  # of the inputs of a single image: there may be engines for them
    depth: np.ndarray | None = None  # layers that each image took, of programs with exits
    features: np.ndarray | None = None  # that the gate read

    def __post_init__(self) -> None:
        self.fed = frozenset(id(value) for value in self.tensors.values())


@dataclass
class _Lane:
    """A region of one image that will run selectively: `run` adds its outputs to the tensors. `dense_ms` is None where
    its time shall not be judged."""

    strategy: str
    run: Callable[[Tensors], None]
    predicted_ms: float
    dense_ms: float | None = None
    plan_ms: float = 0.0


class Executor:
    """The steps of one bundle with their engines and reference states. Safe for concurrent callers."""

    def __init__(self, manifest: Manifest, engines: Engines, costs: DeviceCosts, cache_bytes: int):
        self.manifest, self.engines, self.costs = manifest, engines, costs
        self.references = ReferenceCache(cache_bytes)
        self.regions = regions = [step for step in manifest.steps if isinstance(step, Region)]
        self.guard = Guard(tuple(region.name for region in regions))
        files = {s.file: engines[s.file] for region in regions for s in region.segments}
        self.selective = {region.name: SelectiveExecutor(region, files) for region in regions}
        self.exit_costs = ExitCosts()
        self._drops = last_uses(manifest)
        self._unfit: set[Hashable] = set()  # resolutions at which a region's native plan does not run
        self._specs = {t.name: t for t in (*manifest.tensors, *manifest.outputs)}

    def run(self, request: Request, first: int = 0, last: int | None = None) -> None:
        """Runs the steps, or those from `first` on up to `last`. The request then holds, as arrays of its own, what
        later steps read, the outputs, and the decisions' tensors."""
        steps = list(zip(self.manifest.steps, self._drops, strict=True))
        try:
            for step, drops in steps[first:last]:
                if isinstance(step, Region):
                    self._run_region(step, request)
                elif isinstance(step, ExitChain | ExitPaths):
                    self._run_exits(step, request)
                else:
                    self._run_dense(step, request)
                for name in drops:
                    request.tensors.pop(name, None)
            self._own_tensors(request)
        except BaseException:
            request.leases.clear()  # half-written scratch is not worth saving
            raise
        self._release(request)

    def _run_dense(self, step: DenseSegment | ExitGraph, request: Request) -> None:
        start = perf_counter()
        engine = self.engines.at(step.file, request.shapes)
        feeds = choice_feeds(engine, request.choices)
        feeds.update((name, request.tensors[name]) for name in step.inputs)
        request.tensors.update(zip(engine.outputs, engine.run(feeds), strict=True))
        for decision in self.manifest.decisions:
            if request.checked and decision.keep in engine.outputs:
                check_decision(decision, request.tensors)
        if isinstance(step, ExitGraph):
            check_depths(step, request.tensors)
            _tell_depth(step, request)
        spent = (perf_counter() - start) * 1e3
        request.timing["dense"] += spent
        request.segments[step.name] = spent

    def _run_exits(self, step: ExitChain | ExitPaths, request: Request) -> None:
        start = perf_counter()
        spent = 0.0

        def run(stage: ExitStage, tensors: Tensors) -> Tensors:
            nonlocal spent
            made = self.run_stage(step, stage, tensors, request)
            spent += request.segments[f"{step.name}.{stage.exit}"]
            return made

        if isinstance(step, ExitChain):
            request.tensors[step.chosen] = run_exits(step, request.tensors, run, self.exit_costs)
        else:
            request.tensors.update(run_paths(step, request.tensors, run))
        _tell_depth(step, request)
        request.timing["gather"] += (perf_counter() - start) * 1e3 - spent

    def run_stage(
        self, step: ExitChain | ExitPaths, stage: ExitStage, tensors: Tensors, request: Request
    ) -> Tensors:
        """A stage's outputs for its inputs among `tensors`."""
        start = perf_counter()
        engine = self.engines.at(stage.file, request.shapes)
        feeds = {**choice_feeds(engine, request.choices), **{name: tensors[name] for name in stage.inputs}}
        made = dict(zip(engine.outputs, engine.run(feeds), strict=True))
        spent = (perf_counter() - start) * 1e3
        request.timing["dense"] += spent
        request.segments[f"{step.name}.{stage.exit}"] = spent
        return made

    def _run_region(self, region: Region, request: Request) -> None:
        images = [self._image(region, request, index) for index in range(request.batch)]
        lanes = [self._choose(region, request, image) for image in images]
        request.strategies[region.name] = tuple("dense" if lane is None else lane.strategy for lane in lanes)
        if not any(lanes):
            self._run_fallback(region, request, request.tensors, request.tensors, request.batch)
            return
        if request.batch == 1 and lanes[0] is not None:
            self._run_lane(region, request, lanes[0], request.tensors)
            return
        joined: Tensors = {}
        for index, (image, lane) in enumerate(zip(images, lanes, strict=True)):
            if lane is None:
                self._run_fallback(region, request, image, image, 1)
            else:
                self._run_lane(region, request, lane, image)
            for name in region.outputs:
                if name not in joined:
                    joined[name] = np.empty((request.batch, *image[name].shape[1:]), image[name].dtype)
                joined[name][index : index + 1] = image[name]
            self._release(request)
        request.tensors.update(joined)

    def _image(self, region: Region, request: Request, index: int) -> Tensors:
        if request.batch == 1:
            return request.tensors
        return {name: request.tensors[name][index : index + 1] for name in region.inputs}

    def _choose(self, region: Region, request: Request, image: Tensors) -> _Lane | None:
        """The selective lane for one image, or None for the fallback."""
        start = perf_counter()
        lane = None
        try:
            lane = self._choose_lane(region, request, image)
        finally:
            spent = (perf_counter() - start) * 1e3
            request.timing["plan"] += spent
        if lane is not None:
            lane.plan_ms = spent
        return lane

    def _choose_lane(self, region: Region, request: Request, image: Tensors) -> _Lane | None:
        if request.strategy == "dense":
            return None
        dense_ms, budget = None, math.inf
        if request.strategy == "auto":
            dense_ms = self.costs.dense_ms(region, request.elements)
            if dense_ms is None:
                return None
            if self.guard.demoted(region.name):
                self.guard.pass_by(region.name)
                return None
            budget = _MUST_WIN * self.guard.budget(region.name, dense_ms)
        built = self.references.built
        spans = region.name in self.engines.spans and request.strategy != "rects"
        lane = (self._spans_lane if spans else self._rects_lane)(region, request, image, budget)
        if lane is not None and self.references.built == built:
            lane.dense_ms = dense_ms  # else a first run at a resolution, which is no evidence for the guard
        return lane

    def _spans_lane(self, region: Region, request: Request, image: Tensors, budget: float) -> _Lane | None:
        reference = self.span_reference(region, image)
        if reference is None:
            return None
        active = {name: support(image[name]) for name in region.masks}
        cost = self.costs.spans.get(region.name)
        scratch = self.references.borrow(reference)
        work = reference.prepare(scratch, active)
        predicted = cost.ms(work) if cost else 0.0
        kept = predicted < budget and request.batch == 1  # of a batch, images take turns with one state
        if kept:
            request.leases.append((reference, scratch))
        else:
            self.references.give_back(reference, scratch)

        def run(tensors: Tensors) -> None:
            start = perf_counter()
            state = scratch
            if not kept:
                state = self.references.borrow(reference)
                request.leases.append((reference, state))
                reference.prepare(state, active)
            reference.run(state, tensors)
            request.timing["compute"] += (perf_counter() - start) * 1e3

        return _Lane("spans", run, predicted) if predicted < budget else None

    def _rects_lane(self, region: Region, request: Request, image: Tensors, budget: float) -> _Lane | None:
        found = self.reference(region, image, request.choices, request.symbols)
        if found is None:
            return None
        reference, grid = found
        active = {name: support(image[name], grid.axes_of(name)) for name in region.masks}
        plan = plan_region(grid, active, budget)
        if plan is None:
            return None
        selective = self.selective[region.name]

        def run(tensors: Tensors) -> None:
            scratch = self.references.borrow(reference)
            request.leases.append((reference, scratch))
            selective.run(grid, plan, tensors, scratch, request.choices, request.timing)

        return _Lane("rects", run, plan.predicted_ms)

    def span_reference(self, region: Region, inputs: Tensors) -> SpanReference | None:
        """The native states of a region at the resolution of one image's inputs; None where it must run densely."""
        sizes = {name: inputs[name].shape[2:4] for name in region.inputs}
        key = ("spans", region.name, *sizes.values())
        if key in self._unfit:
            return None
        engine = self.engines.spans[region.name]
        try:
            limit = self.references.limit
            return self.references.get(key, lambda: SpanReference(engine, sizes, limit))
        except EngineError as error:
            _LOG.info("%s runs dense at this resolution: %s", region.name, error.got)
            self._unfit.add(key)
            return None

    def _bytes(self, region: Region, symbols: Symbols) -> int:
        """What the outputs of a region's segments take, which its states take at least."""
        names = [t.name for s in region.segments for t in s.outputs]
        return count_bytes([self._specs[name] for name in names if name in self._specs], symbols)

    def reference(
        self, region: Region, inputs: Tensors, choices: Mapping[str, np.ndarray], symbols: Symbols
    ) -> tuple[Reference, RegionGrid] | None:
        """The reference state of a region for one image's inputs; None where it must run densely at this resolution."""
        shapes = {name: inputs[name].shape for name in region.inputs}
        selective = self.selective[region.name]
        key = (region.name, *shapes.values(), *selective.choice_key(choices))

        def build() -> Reference:
            dtypes = {name: inputs[name].dtype for name in region.inputs}
            return Reference(selective.reference(shapes, dtypes, choices))

        reference = self.references.get(key, build, lambda: self._bytes(region, symbols))
        if reference is None:
            return None
        if reference.grid is None:
            shapes.update((name, value.shape) for name, value in reference.arrays.items())
            reference.grid = grid_of(region, shapes, self.costs)
            if reference.grid.refusal:
                _LOG.info("%s runs dense at this resolution: %s", region.name, reference.grid.refusal)
        grid = reference.grid = reference.grid.priced(self.costs)
        return None if grid.refusal else (reference, grid)

    def _run_lane(self, region: Region, request: Request, lane: _Lane, tensors: Tensors) -> None:
        start = perf_counter()
        lane.run(tensors)
        if request.observe and lane.dense_ms is not None:
            measured = (perf_counter() - start) * 1e3 + lane.plan_ms
            self.guard.saw_selective(region.name, lane.predicted_ms, measured, lane.dense_ms)

    def _run_fallback(
        self, region: Region, request: Request, source: Tensors, target: Tensors, batch: int
    ) -> None:
        start = perf_counter()
        engine = self.engines.at(region.fallback, request.shapes)
        feeds = choice_feeds(engine, request.choices)
        feeds.update((name, source[name]) for name in region.inputs)
        target.update(zip(engine.outputs, engine.run(feeds), strict=True))
        measured = (perf_counter() - start) * 1e3
        request.timing["fallback"] += measured
        dense_ms = self.costs.dense_ms(region, request.elements)
        if request.observe and dense_ms is not None:
            self.guard.saw_dense(region.name, dense_ms, measured / batch)

    def _own_tensors(self, request: Request) -> None:
        """Copies what lies in scratch, and outputs that are an input: what is handed out belongs to the caller."""
        lent = {id(array) for _, scratch in request.leases for array in scratch.arrays.values()}
        detach(request.tensors, tuple(request.tensors), lent)
        self.own_outputs(request)

    def own_outputs(self, request: Request) -> None:
        """Copies those outputs that are not the request's own."""
        made = (spec.name for spec in self.manifest.outputs if spec.name in request.tensors)
        detach(request.tensors, made, request.fed)

    def _release(self, request: Request) -> None:
        start = perf_counter()
        while request.leases:
            self.references.give_back(*request.leases.pop())
        request.timing["restore"] += (perf_counter() - start) * 1e3


def _tell_depth(step: ExitStep, request: Request) -> None:
    request.depth = request.tensors[step.depth]
    request.features = request.tensors.get(step.features)


def last_uses(manifest: Manifest) -> list[tuple[str, ...]]:
    """For each step, the tensors that nothing later reads: dropped then, so that memory holds what is alive."""
    kept = {t.name for t in manifest.outputs}
    kept |= {n for d in manifest.decisions for n in (d.keep, d.logits, d.energy) if n is not None}
    drops: list[tuple[str, ...]] = []
    for step in reversed(manifest.steps):
        segments = step.segments if isinstance(step, Region) else ()
        inside = {t.name for s in segments for t in s.outputs}
        names = ({*step.inputs, *step.outputs} | inside) - kept
        drops.append(tuple(sorted(names)))
        kept |= names
    return drops[::-1]
