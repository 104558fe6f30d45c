"""A region on a device: windows of a whole batch, stacked, over a state that holds the reference elsewhere."""

from __future__ import annotations

import functools
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
from .recording import Capture
from .reference import DeviceReference, DeviceScratch
from .region_replay import Found, Ran, RegionReplays
from .replay import Feeds
from .tiles import Call, Most, Schedule, bucket, choose_grids, find_tiles, price

if TYPE_CHECKING:
    from .executor import DeviceExecutor

_LOG = logging.getLogger("foveate")


@dataclass
class WindowPlan:
    """What is dirty of a batch, and how many tiles of every window rule there are. `dense_ms` is None where it shall
    not be judged."""

    reference: DeviceReference
    found: Found
    images: int
    most: Sequence[Most]  # by rule
    dense_ms: float | None
    budget_ms: float
    counts: list[int] = field(default_factory=list)
    plan_ms: float = 0.0

    @property
    def distinct(self) -> list[Tiles]:
        return self.found.distinct

    def count(self, found: Sequence[int]) -> None:
        """Adds the counts of the distinct tiles."""
        counts = {id(tiles.count): n for tiles, n in zip(self.distinct, found, strict=True)}
        self.counts = [counts[id(tiles.count)] for tiles in self.found.tiles]

    @functools.cached_property
    def schedule(self) -> Schedule:
        """What computes so many tiles."""
        assert self.reference.grid is not None
        calls, total = [], 0.0
        rules = self.reference.grid.dirtiness.windows
        for rule, tiles, n, most in zip(rules, self.found.tiles, self.counts, self.most, strict=True):
            made, ms = price(rule, tiles.grid, n, self.images, most)
            calls.append(None if n and not made else tuple(made))
            total += ms
        return Schedule(self.images, tuple(calls), total)

    @property
    def predicted_ms(self) -> float:
        return self.schedule.ms

    @property
    def calls_ms(self) -> float:
        """What of these is not for cells."""
        assert self.reference.grid is not None
        rules = zip(self.reference.grid.dirtiness.windows, self.schedule.calls, strict=True)
        return math.fsum(rule.fixed_ms * (1 if calls is None else len(calls)) for rule, calls in rules)


class DeviceRegion:
    """Plans and runs one region, for the one whose turn it is. `replayed`: so many runs."""

    def __init__(self, region: Region, executor: DeviceExecutor, engines: Sequence[DeviceEngine]):
        self.region, self._executor, self._engines = region, executor, engines
        self._device: Device = executor.device
        self._capture = _capture_of(engines)
        self.replayed = 0

    def draft(
        self, request: Request, dense_ms: float | None = None, budget_ms: float = math.inf
    ) -> WindowPlan | None:
        """The dirty tiles, not counted yet; None where the region runs densely at this resolution."""
        built = self._executor.references.built
        reference = self.reference(request)
        if reference is None or reference.grid is None:
            return None
        grid, tiles, replays = reference.grid, reference.tiles, reference.replays
        masks = {name: request.tensors[name] for name in self.region.masks}
        tried = replays.tried if replays is not None else 0

        def plain(masks: Feeds) -> Found:
            return Found(find_tiles(self._device, grid, tiles, masks, request.batch))

        found = plain(masks) if replays is None else replays.find(request.batch, masks, plain)
        if self._executor.references.built > built or (replays is not None and replays.tried > tried):
            dense_ms = None  # a first run at a resolution is no evidence for the guard, nor is one that tries a replay
        return WindowPlan(reference, found, request.batch, self.most(grid), dense_ms, budget_ms)

    def run(self, plan: WindowPlan, request: Request, scratch: DeviceScratch) -> Tensors:
        """Every segment's outputs: the state's own arrays, written where dirty, or those of an engine that computed
        whole maps."""
        reference, replays, schedule = plan.reference, plan.reference.replays, plan.schedule
        inputs = {name: request.tensors[name] for name in self.region.inputs}
        feeds = inputs | plan.found.parts | dict(plan.found.fixed)
        choices = [self._executor.choice_feeds(engine, request.choices) for engine in self._engines]

        def plain(feeds: Feeds) -> Ran:
            tiles = plan.found.made_of(feeds)
            tensors = self._compute(reference, schedule, tiles, feeds, choices, scratch)
            return Ran(tensors, partial(self._restore, reference, schedule, tiles, scratch))

        if replays is None or schedule.is_empty:
            ran = plain(feeds)
        else:
            tried = replays.tried
            ran = replays.run(schedule, plan.counts, scratch, feeds, plan.found.fixed, plain)
            plan.dense_ms = plan.dense_ms if replays.tried == tried else None
            self.replayed += ran.replayed
        scratch.restores.append(ran.restore)
        return dict(ran.tensors)

    def _compute(
        self,
        reference: DeviceReference,
        schedule: Schedule,
        tiles: Sequence[Tiles],
        inputs: Feeds,
        choices: Sequence[Tensors],
        scratch: DeviceScratch,
    ) -> Tensors:
        assert reference.grid is not None
        if self._device.recording is not None:
            self._device.recording.hold(choices)
        tensors = {name: inputs[name] for name in self.region.inputs}
        groups = zip(reference.grid.dirtiness.segments, choices, strict=True)
        for segment, engine, (group, feeds) in zip(self.region.segments, self._engines, groups, strict=True):
            calls = schedule.calls[group]
            if calls is None:
                run_whole(engine, segment, feeds, tensors)
                continue
            for t in segment.outputs:
                state = scratch.arrays[t.name]
                tensors[t.name] = state.view((schedule.images, *state.shape[1:]))
            run_windows(self._device, engine, segment, feeds, tensors, tiles[group], calls)
        return {t.name: tensors[t.name] for s in self.region.segments for t in s.outputs}

    def _restore(
        self, reference: DeviceReference, schedule: Schedule, tiles: Sequence[Tiles], scratch: DeviceScratch
    ) -> None:
        assert reference.grid is not None
        for segment, group in zip(self.region.segments, reference.grid.dirtiness.segments, strict=True):
            if schedule.calls[group]:
                for t in segment.outputs:
                    state, original = scratch.arrays[t.name], reference.arrays[t.name]
                    most = schedule.room(group)
                    self._device.restore_tiles(state, original, tiles[group], t.positions, most)

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
            arrays, replays = self._activations(shapes, dtypes, request.choices), None
            if self._capture is not None:
                replays = RegionReplays(self._device, self._capture, lambda: executor.references.room)
            return DeviceReference(self._device, arrays, batch, replays)

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
                reference.arrays = {}
        if reference.refusal:
            return None
        priced = reference.grid.priced(executor.costs)
        if priced is not reference.grid or not reference.tiles:
            reference.grid = priced
            reference.tiles = choose_grids(priced, self.most(priced), executor.active_fraction)
            if reference.replays is not None:
                reference.replays.clear()
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


def _capture_of(engines: Sequence[DeviceEngine]) -> Capture | None:
    """What captures runs of all of them, which are of one backend."""
    captures = [engine.capture for engine in engines]
    return captures[0] if all(captures) else None


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
