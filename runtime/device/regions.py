"""A region on a device: windows of a whole batch, stacked, over a state that holds the reference elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..grid import RegionGrid, grid_of
from ..manifest import LocalSegment, Pair, Region
from ..request import Request, Tensors
from ..selective import choice_key
from .device import Device, Tiles
from .engine import DeviceEngine
from .reference import DeviceReference, DeviceScratch
from .tiles import Call, Most, bucket, choose_grids, find_tiles, price

if TYPE_CHECKING:
    from .executor import DeviceExecutor

_LOG = logging.getLogger("foveate")


@dataclass
class WindowPlan:
    """What is dirty of a batch: `tiles` of every window rule, of which `counts` says how many there are, and `calls`
    what computes them; where there are none of something dirty, whole maps are cheaper. `dense_ms` is None where it
    shall not be judged."""

    reference: DeviceReference
    tiles: list[Tiles]
    images: int
    most: Sequence[Most]  # by rule
    dense_ms: float | None
    budget_ms: float
    counts: list[int] = field(default_factory=list)
    calls: list[list[Call]] = field(default_factory=list)
    predicted_ms: float = 0.0
    plan_ms: float = 0.0

    @property
    def distinct(self) -> list[Tiles]:
        """Those that were looked for apart."""
        return list({id(tiles.count): tiles for tiles in self.tiles}.values())

    def count(self, found: Sequence[int]) -> None:
        """Adds the counts of the distinct tiles, and what follows from them."""
        assert self.reference.grid is not None
        counts = {id(tiles.count): n for tiles, n in zip(self.distinct, found, strict=True)}
        rules = self.reference.grid.dirtiness.windows
        for rule, tiles, most in zip(rules, self.tiles, self.most, strict=True):
            n = counts[id(tiles.count)]
            made, ms = price(rule, tiles.grid, n, self.images, most)
            self.counts.append(n)
            self.calls.append(made)
            self.predicted_ms += ms


class DeviceRegion:
    """Plans and runs one region. Holds no state; for the one whose turn it is."""

    def __init__(self, region: Region, executor: DeviceExecutor, engines: Sequence[DeviceEngine]):
        self.region, self._executor, self._engines = region, executor, engines
        self._device: Device = executor.device

    def draft(
        self, request: Request, dense_ms: float | None = None, budget_ms: float = math.inf
    ) -> WindowPlan | None:
        """The dirty tiles, not counted yet; None where the region runs densely at this resolution."""
        built = self._executor.references.built
        reference = self.reference(request)
        if reference is None or reference.grid is None:
            return None
        masks = {name: request.tensors[name] for name in self.region.masks}
        tiles = find_tiles(self._device, reference.grid, reference.tiles, masks, request.batch)
        if self._executor.references.built > built:
            dense_ms = None  # a first run at a resolution is no evidence for the guard
        return WindowPlan(reference, tiles, request.batch, self.most(reference.grid), dense_ms, budget_ms)

    def run(self, plan: WindowPlan, request: Request, scratch: DeviceScratch) -> Tensors:
        """Every segment's outputs: the state's own arrays, written where dirty, or those of an engine that computed
        whole maps."""
        assert plan.reference.grid is not None
        tensors = {name: request.tensors[name] for name in self.region.inputs}
        groups = plan.reference.grid.dirtiness.segments
        for segment, engine, group in zip(self.region.segments, self._engines, groups, strict=True):
            tiles, n, made = plan.tiles[group], plan.counts[group], plan.calls[group]
            feeds = self._executor.choice_feeds(engine, request.choices)
            if n and not made:
                run_whole(engine, segment, feeds, tensors)
                continue
            for t in segment.outputs:
                state = scratch.arrays[t.name]
                tensors[t.name] = state.view((request.batch, *state.shape[1:]))
                scratch.dirtied += [(t.name, tiles, t.positions, n)] if n else []
            run_windows(self._device, engine, segment, feeds, tensors, tiles, made)
        return {t.name: tensors[t.name] for s in self.region.segments for t in s.outputs}

    def reference(self, request: Request) -> DeviceReference | None:
        """The reference state for one image's inputs, with scratch for such batches; None where the region must run
        densely at this resolution."""
        shapes = self._executor.input_shapes(self.region, request)
        return None if shapes is None else self._reference_at(shapes, request)

    def _reference_at(self, shapes: dict[str, tuple[int, ...]], request: Request) -> DeviceReference | None:
        executor, batch = self._executor, bucket(request.batch)
        key = (self.region.name, *shapes.values(), *choice_key(self._engines, request.choices), batch)

        def build() -> DeviceReference:
            dtypes = {name: executor.dtype(name, request) for name in self.region.inputs}
            return DeviceReference(self._device, self._activations(shapes, dtypes, request.choices), batch)

        need = executor.bytes_of(self.region, request.symbols) * (1 + batch)
        reference = executor.references.get(key, build, lambda: need)
        if reference is None:
            return None
        if reference.grid is None:
            known = shapes | {name: array.shape for name, array in reference.arrays.items()}
            reference.grid = grid_of(self.region, known, executor.costs)
            reference.refusal = reference.grid.refusal or _refusal(reference.grid, known)
            if reference.refusal:
                _LOG.info("%s runs dense at this resolution: %s", self.region.name, reference.refusal)
                reference.arrays, reference.held_bytes, reference.scratch_bytes = {}, 0, 0
        if reference.refusal:
            return None
        priced = reference.grid.priced(executor.costs)
        if priced is not reference.grid or not reference.tiles:
            reference.grid = priced
            reference.tiles = choose_grids(priced, self.most(priced), executor.active_fraction)
        return reference

    def _activations(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, np.dtype],
        choices: Mapping[str, np.ndarray],
    ) -> Tensors:
        """Every segment's outputs for inputs that are zero."""
        tensors = {n: self._device.put(np.zeros(shapes[n], dtypes[n])) for n in self.region.inputs}
        for segment, engine in zip(self.region.segments, self._engines, strict=True):
            run_whole(engine, segment, self._executor.choice_feeds(engine, choices), tensors)
        return {t.name: tensors[t.name] for s in self.region.segments for t in s.outputs}

    def most(self, grid: RegionGrid) -> list[Most]:
        """Of every window rule."""
        sharing: list[list[tuple[LocalSegment, DeviceEngine]]] = [[] for _ in grid.dirtiness.windows]
        groups = grid.dirtiness.segments
        for segment, engine, group in zip(self.region.segments, self._engines, groups, strict=True):
            sharing[group].append((segment, engine))
        return [partial(_most, runs) for runs in sharing]


def run_whole(engine: DeviceEngine, segment: LocalSegment, feeds: Tensors, tensors: Tensors) -> None:
    """One call of a local segment on whole maps, for outputs of its own."""
    given = feeds | {t.name: tensors[t.name] for t in segment.inputs}
    tensors.update(zip(engine.outputs, engine.run(given), strict=True))


def run_windows(
    device: Device,
    engine: DeviceEngine,
    segment: LocalSegment,
    feeds: Tensors,
    tensors: Tensors,
    tiles: Tiles,
    made: Sequence[Call],
) -> None:
    """The calls of a local segment on windows, whose results are written into its outputs among `tensors`."""
    positions = {t.name: t.positions for t in segment.outputs}
    for first, size in made:
        given = feeds | {
            t.name: device.take_windows(tensors[t.name], tiles, t.positions, size, first)
            for t in segment.inputs
        }
        for name, values in zip(engine.outputs, engine.run(given), strict=True):
            device.put_windows(tensors[name], tiles, positions[name], values, first)


def _most(runs: Sequence[tuple[LocalSegment, DeviceEngine]], window: Pair) -> int:
    """Windows of so many cells that all these engines take at once; 0 for any number."""
    limits = []
    for segment, engine in runs:
        sizes = {t.name: (window[0] * t.positions[0], window[1] * t.positions[1]) for t in segment.inputs}
        limits.append(engine.most(sizes))
    return min((n for n in limits if n), default=0)


def _refusal(grid: RegionGrid, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Why windows of one size do not fit; "" where they do."""
    for name in grid.region.masks:
        if grid.axes_of(name) != (2, 3) or len(shapes[name]) != 4:
            return f"mask {name} is no map [N, C, H, W]"
    for segment in grid.region.segments:
        for tensor in (*segment.inputs, *segment.outputs):
            size = grid.sizes[tensor.name]
            if tensor.axes != (2, 3) or len(shapes[tensor.name]) != 4:
                return f"{tensor.name} of {segment.name} is no map [N, C, H, W]"
            if any(n % per for n, per in zip(size, tensor.positions, strict=True)):
                return f"{tensor.name} of {segment.name} is {size[0]}×{size[1]}: not a whole number of cells"
    return ""
