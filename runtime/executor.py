"""Runs a bundle's steps for one batch on the CPU: dense segments on whole batches, regions image by image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from .breakeven import measure_executor
from .costs import DeviceCosts
from .decisions import check_decision
from .dims import Symbols
from .engine import Engine
from .engines import Engines
from .errors import EngineError
from .exits import HOST_ROWS, check_depths
from .geometry import support
from .grid import RegionGrid, grid_of
from .manifest import Decision, ExitStep, Manifest, Region
from .request import Request, Tensors
from .result import detach
from .selective import SelectiveExecutor, choice_feeds, plan_region
from .spans import SpanReference
from .state import Reference
from .steps import Steps, Told

_LOG = logging.getLogger("foveate")


@dataclass
class _Lane:
    """A region of one image that will run selectively: `run` adds its outputs to the tensors. `dense_ms` is None where
    its time shall not be judged."""

    strategy: str
    run: Callable[[Tensors], None]
    predicted_ms: float
    dense_ms: float | None = None
    plan_ms: float = 0.0


class Executor(Steps):
    """See `Steps`."""

    rows = HOST_ROWS

    def __init__(self, manifest: Manifest, engines: Engines, costs: DeviceCosts, cache_bytes: int):
        super().__init__(manifest, engines, costs, cache_bytes)
        files = {s.file: engines[s.file] for region in self.regions for s in region.segments}
        self.selective = {region.name: SelectiveExecutor(region, files) for region in self.regions}
        self._unfit: set[Hashable] = set()  # resolutions at which a region's native plan does not run

    def measure(
        self,
        shapes: Mapping[str, Sequence[int]],
        choices: Mapping[str, np.ndarray],
        fingerprint: dict[str, str],
        budget_ms: float,
    ) -> DeviceCosts:
        return measure_executor(self, shapes, choices, fingerprint, budget_ms)

    @contextmanager
    def _timed(
        self, request: Request, phase: str = "", segment: str = "", told: Told | None = None
    ) -> Iterator[None]:
        start = perf_counter()
        yield
        ms = (perf_counter() - start) * 1e3
        request.note(phase, segment, ms)
        if told is not None:
            told(ms)

    def _choices(self, engine: Engine, request: Request) -> Tensors:
        return choice_feeds(engine, request.choices)

    def _check(self, decision: Decision, request: Request) -> None:
        check_decision(decision, request.tensors)

    def _ask_depth(self, step: ExitStep, request: Request) -> None:
        request.depth = check_depths(step, request.tensors)
        request.features = request.tensors.get(step.features)

    def _settle(self, request: Request) -> None:
        """Nothing is left open."""

    def _run_region(self, region: Region, request: Request) -> None:
        images = [self._image(region, request, index) for index in range(request.batch)]
        lanes = [self._choose(region, request, image) for image in images]
        request.strategies[region.name] = tuple("dense" if lane is None else lane.strategy for lane in lanes)
        if not any(lanes):
            self._run_fallback(region, request, request.tensors, 1, request.batch)
            return
        if request.batch == 1 and lanes[0] is not None:
            self._run_lane(region, request, lanes[0], request.tensors)
            return
        joined: Tensors = {}
        for index, (image, lane) in enumerate(zip(images, lanes, strict=True)):
            if lane is None:
                self._run_fallback(region, request, image, 1)
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
        found = self._budget(region, request, 1)
        if found is None:
            return None
        dense_ms, budget = found
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

        reference = self.references.get(key, build, lambda: self.bytes_of(region, symbols))
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

    def _own_tensors(self, request: Request) -> None:
        """Copies what lies in scratch, and outputs that are an input: what is handed out belongs to the caller."""
        lent = {id(array) for _, scratch in request.leases for array in scratch.arrays.values()}
        detach(request.tensors, tuple(request.tensors), lent)
        self.own_outputs(request)

    def own_outputs(self, request: Request) -> None:
        """Copies those outputs that are not the request's own."""
        made = (spec.name for spec in self.manifest.outputs if spec.name in request.tensors)
        detach(request.tensors, made, request.fed)
