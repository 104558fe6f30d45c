"""The selective executor: (reference state, dirty positions) → new state.

A mask and a change map are the same thing to it. Planning turns dirty positions into windows of every local segment
of a region; running computes those windows over a state that holds the reference everywhere else. Whose state that is
(pooled scratch for masks, the previous frame's activations for a stream) is the caller's affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from .dirtiness import CellRule, MapRule, WindowRule
from .engine import Border, Engine
from .geometry import dirty_map, project_cells
from .grid import RegionGrid
from .manifest import LocalSegment, Region
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
    rules = grid.dirtiness
    maps = dirty_maps(rules.maps, dirty)
    cells = [dirty_cells(rule, maps) for rule in rules.cells]
    counts = [int(np.count_nonzero(active)) for active in cells]
    least = sum(
        r.fixed_ms + r.ms_per_cell * counts[r.cell_rule] for r in rules.windows if counts[r.cell_rule]
    )
    if least >= budget_ms:
        return None
    covers: dict[int, np.ndarray] = {}
    windows: list[Windows | None] = []
    predicted = 0.0
    for rule in rules.windows:
        found = _windows(rule, rules.cells[rule.cell_rule], cells[rule.cell_rule], covers)
        windows.append(found)
        if found is not None:
            predicted += found.count * rule.fixed_ms + found.area * rule.ms_per_cell
    if predicted >= budget_ms:
        return None
    return RegionPlan(tuple(windows[group] for group in rules.segments), predicted)


def dirty_maps(rules: Sequence[MapRule], dirty: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """bool [h, w] of every rule."""
    maps: list[np.ndarray] = []
    for rule in rules:
        if rule.mask:
            maps.append(dirty[rule.mask])
        elif rule.terms:
            maps.append(dirty_map([(maps[source], term) for source, term in rule.terms], rule.size))
        else:
            maps.append(np.ones(rule.size, bool))
    return maps


def dirty_cells(rule: CellRule, maps: Sequence[np.ndarray]) -> np.ndarray:
    """bool [cy, cx]."""
    parts = [project_cells(maps[index], positions, rule.cells) for index, positions in rule.parts]
    return parts[0] if len(parts) == 1 else np.logical_or.reduce(parts)


def _windows(
    rule: WindowRule, cells: CellRule, active: np.ndarray, covers: dict[int, np.ndarray]
) -> Windows | None:
    if rule.cell_rule not in covers:
        covers[rule.cell_rule] = cover(active, fixed=rule.fixed_cells, halo=rule.cover_halo)
    rects = covers[rule.cell_rule]
    if not len(rects):
        return None
    return Windows(rects, rule.halo, cells.cells) if rule.strategy == "rects" else whole_map(cells.cells)


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
        return choice_key(self._engines, choices)

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


def choice_key(engines: Iterable[Border], choices: Mapping[str, np.ndarray]) -> tuple[tuple[str, bytes], ...]:
    """The values that a region's segments take, for a reference depends on them."""
    taken = {name for engine in engines for name in engine.optional} & set(choices)
    return tuple((name, choices[name].tobytes()) for name in sorted(taken))


def choice_feeds(engine: Border, choices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The choices that this engine takes."""
    return {name: choices[name] for name in engine.optional if name in choices}
