"""Runs a bundle's steps for one batch: dense segments on whole batches, regions image by image."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from .costs import DeviceCosts
from .decisions import check_decision
from .dims import Symbols, count_bytes
from .engines import Engines
from .geometry import support
from .grid import RegionGrid, grid_of
from .guard import Guard
from .manifest import DenseSegment, Manifest, Region
from .result import Timing, new_timing
from .selective import RegionPlan, SelectiveExecutor, choice_feeds, plan_region
from .state import Reference, ReferenceCache, Scratch

_LOG = logging.getLogger("foveate")
Tensors = dict[str, np.ndarray]


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
    leases: list[tuple[Reference, Scratch]] = field(default_factory=list)
    checked: bool = True  # decisions that are not finite are refused
    fed: frozenset[int] = frozenset()  # ids of the caller's arrays

    def __post_init__(self) -> None:
        self.fed = frozenset(id(value) for value in self.tensors.values())


@dataclass
class _Lane:
    """A region of one image that will run selectively. `dense_ms` is None where its time shall not be judged."""

    reference: Reference
    grid: RegionGrid
    plan: RegionPlan
    dense_ms: float | None
    plan_ms: float


class Executor:
    """The steps of one bundle with their engines and reference states. Safe for concurrent callers."""

    def __init__(self, manifest: Manifest, engines: Engines, costs: DeviceCosts, cache_bytes: int):
        self.manifest, self.engines, self.costs = manifest, engines, costs
        self.references = ReferenceCache(cache_bytes)
        self.regions = regions = [step for step in manifest.steps if isinstance(step, Region)]
        self.guard = Guard(tuple(region.name for region in regions))
        files = {s.file: engines[s.file] for region in regions for s in region.segments}
        self.selective = {region.name: SelectiveExecutor(region, files) for region in regions}
        self._drops = _last_uses(manifest)
        self._specs = {t.name: t for t in (*manifest.tensors, *manifest.outputs)}

    def run(self, request: Request) -> None:
        """Runs all steps; the request then holds the outputs, fresh, and the decisions' tensors."""
        try:
            for step, drops in zip(self.manifest.steps, self._drops, strict=True):
                if isinstance(step, DenseSegment):
                    self._run_dense(step, request)
                else:
                    self._run_region(step, request)
                for name in drops:
                    request.tensors.pop(name, None)
            self._own_outputs(request)
        except BaseException:
            request.leases.clear()  # half-written scratch is not worth saving
            raise
        self._release(request)

    def _run_dense(self, step: DenseSegment, request: Request) -> None:
        start = perf_counter()
        engine = self.engines[step.file]
        feeds = choice_feeds(engine, request.choices)
        feeds.update((name, request.tensors[name]) for name in step.inputs)
        request.tensors.update(zip(engine.outputs, engine.run(feeds), strict=True))
        for decision in self.manifest.decisions:
            if request.checked and decision.keep in engine.outputs:
                check_decision(decision, request.tensors)
        spent = (perf_counter() - start) * 1e3
        request.timing["dense"] += spent
        request.segments[step.name] = spent

    def _run_region(self, region: Region, request: Request) -> None:
        images = [self._image(region, request, index) for index in range(request.batch)]
        lanes = [self._choose(region, request, image) for image in images]
        request.strategies[region.name] = tuple("dense" if lane is None else "rects" for lane in lanes)
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
        try:
            return self._choose_lane(region, request, image)
        finally:
            request.timing["plan"] += (perf_counter() - start) * 1e3

    def _choose_lane(self, region: Region, request: Request, image: Tensors) -> _Lane | None:
        if request.strategy == "dense":
            return None
        dense_ms = self.costs.dense_ms(region, request.elements)
        budget = float("inf")
        if request.strategy == "auto":
            if dense_ms is None:
                return None
            if self.guard.demoted(region.name):
                self.guard.pass_by(region.name)
                return None
            budget = self.guard.budget(region.name, dense_ms)
        built = self.references.built
        found = self.reference(region, image, request.choices, request.symbols)
        if found is None:
            return None
        reference, grid = found
        if self.references.built != built:  # a first run at a resolution is no evidence for the guard
            dense_ms = None
        start = perf_counter()
        plan = plan_region(
            grid, {name: support(image[name], grid.axes_of(name)) for name in region.masks}, budget
        )
        if plan is None:
            return None
        return _Lane(reference, grid, plan, dense_ms, (perf_counter() - start) * 1e3)

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

        def estimate() -> int:
            names = [t.name for s in region.segments for t in s.outputs]
            return count_bytes([self._specs[name] for name in names if name in self._specs], symbols)

        reference = self.references.get(key, build, estimate)
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
        scratch = self.references.borrow(lane.reference)
        request.leases.append((lane.reference, scratch))
        self.selective[region.name].run(
            lane.grid, lane.plan, tensors, scratch, request.choices, request.timing
        )
        if request.observe and lane.dense_ms is not None:
            measured = (perf_counter() - start) * 1e3 + lane.plan_ms
            self.guard.saw_selective(region.name, lane.plan.predicted_ms, measured, lane.dense_ms)

    def _run_fallback(
        self, region: Region, request: Request, source: Tensors, target: Tensors, batch: int
    ) -> None:
        start = perf_counter()
        engine = self.engines[region.fallback]
        feeds = choice_feeds(engine, request.choices)
        feeds.update((name, source[name]) for name in region.inputs)
        target.update(zip(engine.outputs, engine.run(feeds), strict=True))
        measured = (perf_counter() - start) * 1e3
        request.timing["fallback"] += measured
        dense_ms = self.costs.dense_ms(region, request.elements)
        if request.observe and dense_ms is not None:
            self.guard.saw_dense(region.name, dense_ms, measured / batch)

    def _own_outputs(self, request: Request) -> None:
        """Copies those outputs that lie in scratch or are an input: what is handed out belongs to the caller."""
        lent = {id(array) for _, scratch in request.leases for array in scratch.arrays.values()}
        for spec in self.manifest.outputs:
            value = request.tensors[spec.name]
            if id(value) in lent or id(value) in request.fed:
                request.tensors[spec.name] = value.copy()

    def _release(self, request: Request) -> None:
        start = perf_counter()
        while request.leases:
            self.references.give_back(*request.leases.pop())
        request.timing["restore"] += (perf_counter() - start) * 1e3


def _last_uses(manifest: Manifest) -> list[tuple[str, ...]]:
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
