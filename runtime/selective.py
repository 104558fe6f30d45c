"""The selective executor: (reference state, dirty positions) → new state.

A mask and a change map are the same thing to it. Planning turns dirty positions into windows of every local segment
of a region; running computes those windows over a state that holds the reference everywhere else. Whose state that is
(pooled scratch for masks, the previous frame's activations for a stream) is the caller's affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from .engine import Engine
from .errors import InternalError
from .geometry import dirty_map, project_cells
from .grid import RegionGrid, SegmentGrid
from .manifest import LocalSegment, Pair, Region, Term
from .rectangles import cover
from .result import Timing
from .state import Scratch
from .windows import Windows, whole_map


@dataclass(frozen=True)
class RegionPlan:
    """The windows of each segment, None where nothing is dirty, and what running them should cost in ms."""

    windows: tuple[Windows | None, ...]
    predicted_ms: float


def plan_region(
    grid: RegionGrid, dirty: Mapping[str, np.ndarray], budget_ms: float = math.inf
) -> RegionPlan | None:
    """Windows for the dirty positions of the region's masks (bool [h, w] each).

    None as soon as running them must cost `budget_ms` or more: on a mostly active image that is known from counting,
    before any rectangle is cut.
    """
    maps = _DirtyMaps(grid, dirty)
    cells = [maps.cells(segment) for segment in grid.segments]
    least = 0.0
    for segment, (_, count) in zip(grid.segments, cells, strict=True):
        least += segment.cost.fixed_ms + segment.cost.ms_per_cell * count if count else 0.0
    if least >= budget_ms:
        return None
    windows = tuple(
        maps.windows(segment, active) if count else None
        for segment, (active, count) in zip(grid.segments, cells, strict=True)
    )
    predicted = math.fsum(
        w.count * s.cost.fixed_ms + w.area * s.cost.ms_per_cell
        for s, w in zip(grid.segments, windows, strict=True)
        if w is not None
    )
    return RegionPlan(windows, predicted) if predicted < budget_ms else None


class _DirtyMaps:
    """Dirty positions of every tensor of a region, for one plan. Equal work is done once: segments whose dirty maps
    are the same object share their cells, and those of equal halo share their windows."""

    def __init__(self, grid: RegionGrid, dirty: Mapping[str, np.ndarray]):
        self._grid = grid
        self._maps = dict(dirty)
        self._reached: dict[tuple, np.ndarray] = {}
        self._cells: dict[tuple, tuple[np.ndarray, int]] = {}
        self._windows: dict[tuple, Windows] = {}

    def cells(self, segment: SegmentGrid) -> tuple[np.ndarray, int]:
        """The segment's dirty cells, bool [cy, cx], and how many they are."""
        outputs = segment.segment.outputs
        maps = [(self._dirty(t.dirty, self._grid.sizes[t.name]), t) for t in outputs]
        for positions, tensor in maps:
            self._maps[tensor.name] = positions
        key = (segment.cells, *((id(positions), t.positions) for positions, t in maps))
        if key not in self._cells:
            active = [project_cells(positions, t.positions, segment.cells) for positions, t in maps]
            union = active[0] if len(active) == 1 else np.logical_or.reduce(active)
            self._cells[key] = union, int(np.count_nonzero(union))
        return self._cells[key]

    def windows(self, segment: SegmentGrid, active: np.ndarray) -> Windows:
        if segment.segment.strategy == "dense":
            return whole_map(segment.cells)
        key = (id(active), segment.halo, segment.fixed_cells)
        if key not in self._windows:
            rects = cover(active, fixed=segment.fixed_cells, halo=segment.halo)
            self._windows[key] = Windows(rects, segment.halo, segment.cells)
        return self._windows[key]

    def _dirty(self, terms: tuple[Term, ...], size: Pair) -> np.ndarray:
        sources = {term.source: self._source(term.source) for term in terms}
        key = (size, *((id(sources[t.source]), t.num, t.den, t.low, t.high) for t in terms))
        if key not in self._reached:
            self._reached[key] = dirty_map(terms, sources, size)
        return self._reached[key]

    def _source(self, name: str) -> np.ndarray:
        if name not in self._maps:
            if name not in self._grid.region.inputs:
                raise InternalError(
                    f"{self._grid.region.name}: dirtiness from {name}, which is computed later"
                )
            self._maps[name] = np.ones(self._grid.sizes[name], bool)
        return self._maps[name]


class SelectiveExecutor:
    """Runs the local segments of one region. Holds no state; safe for concurrent callers."""

    def __init__(self, region: Region, engines: Mapping[str, Engine]):
        self.region = region
        self._engines = [engines[segment.file] for segment in region.segments]

    def run(
        self,
        grid: RegionGrid,
        plan: RegionPlan,
        tensors: dict[str, np.ndarray],
        state: Scratch,
        choices: Mapping[str, np.ndarray],
        timing: Timing,
    ) -> None:
        """Adds every segment's outputs for one image to `tensors`, which holds the region's inputs.

        Outputs are the state's own arrays, written where dirty, or fresh ones where a single call computed the whole
        map (the state is then left alone).
        """
        for segment, engine, windows in zip(self.region.segments, self._engines, plan.windows, strict=True):
            if windows is None:
                tensors.update((t.name, state.arrays[t.name]) for t in segment.outputs)
            elif windows.whole:
                start = perf_counter()
                tensors.update(run_whole(engine, segment, tensors, choices))
                timing["compute"] += (perf_counter() - start) * 1e3
            else:
                run_windows(grid, segment, engine, windows, tensors, state, choices, timing)

    def choice_key(self, choices: Mapping[str, np.ndarray]) -> tuple[tuple[str, bytes], ...]:
        """The values that the region's own segments take, for a reference depends on them."""
        taken = {name for engine in self._engines for name in engine.optional} & set(choices)
        return tuple((name, choices[name].tobytes()) for name in sorted(taken))

    def reference(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, np.dtype],
        choices: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Every segment's outputs for inputs that are zero: the activations of the fully masked input."""
        tensors = {name: np.zeros(shapes[name], dtypes[name]) for name in self.region.inputs}
        for segment, engine in zip(self.region.segments, self._engines, strict=True):
            tensors.update(run_whole(engine, segment, tensors, choices))
        return {t.name: tensors[t.name] for s in self.region.segments for t in s.outputs}


def run_windows(
    grid: RegionGrid,
    segment: LocalSegment,
    engine: Engine,
    windows: Windows,
    tensors: dict[str, np.ndarray],
    state: Scratch,
    choices: Mapping[str, np.ndarray],
    timing: Timing,
) -> None:
    """Computes the windows of one segment into the state, which notes where it was written."""
    reads = [(t.name, tensors[t.name], windows.reads(t, grid.sizes[t.name])) for t in segment.inputs]
    by_name = {t.name: t for t in segment.outputs}
    writes = []
    for index, name in enumerate(engine.outputs):
        target = tensors[name] = state.arrays[name]
        places = windows.writes(by_name[name], grid.sizes[name])
        state.dirtied.extend((name, place) for place, _ in places)
        writes.append((index, target, places))
    feeds = choice_feeds(engine, choices)
    gather = compute = scatter = 0.0
    for call in range(windows.count):
        started = perf_counter()
        for name, source, slices in reads:
            feeds[name] = np.ascontiguousarray(source[slices[call]])
        gathered = perf_counter()
        answers = engine.run(feeds)
        computed = perf_counter()
        for index, target, places in writes:
            place, crop = places[call]
            target[place] = answers[index][crop]
        gather += gathered - started
        compute += computed - gathered
        scatter += perf_counter() - computed
    timing["gather"] += gather * 1e3
    timing["compute"] += compute * 1e3
    timing["scatter"] += scatter * 1e3


def run_whole(
    engine: Engine,
    segment: LocalSegment,
    tensors: Mapping[str, np.ndarray],
    choices: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """One call of a local segment on whole maps."""
    feeds = choice_feeds(engine, choices)
    feeds.update((t.name, tensors[t.name]) for t in segment.inputs)
    return dict(zip(engine.outputs, engine.run(feeds), strict=True))


def choice_feeds(engine: Engine, choices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The choices that this engine takes."""
    return {name: choices[name] for name in engine.optional if name in choices}
