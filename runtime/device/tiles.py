"""Tiles of a region: how large they are at a resolution, which of them are dirty, and in which calls they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..dirtiness import WindowRule
from ..geometry import count_cells, project_cells
from ..grid import RegionGrid
from ..manifest import Pair
from ..probes import ellipse
from ..selective import dirty_cells, dirty_maps
from .device import Device, DeviceArray, Reach, TileGrid, Tiles

Call = tuple[int, int]  # the first window, and how many
Most = Callable[[Pair], int]  # windows a call, of windows of that many cells; 0: any number

SIDES = (4, 8, 16, 32, 64)  # of tiles, in cells, beside the whole map
_STEPS = 4  # sizes of batches between a power of two and the next one


@dataclass(frozen=True)
class Schedule:
    """What runs, of a batch of `images`, whatever its tiles hold: of every window rule its calls on windows, or None
    for whole maps; and the ms that this should take."""

    images: int
    calls: tuple[tuple[Call, ...] | None, ...]
    ms: float

    def room(self, rule: int) -> int:
        """The most tiles of a window rule that it computes, where it does not run on whole maps."""
        first, size = (self.calls[rule] or ((0, 0),))[-1]
        return first + size

    def covers(self, images: int, counts: Sequence[int]) -> bool:
        """Whether it is right where there are so many tiles of every rule."""
        rules = enumerate(zip(self.calls, counts, strict=True))
        return self.images == images and all(calls is None or n <= self.room(i) for i, (calls, n) in rules)

    @property
    def is_empty(self) -> bool:
        return not any(calls is None or calls for calls in self.calls)


def bucket(n: int) -> int:
    """The size of the batch that n windows run in: at most a quarter more, so that shapes come again."""
    step = 1 << max(0, n.bit_length() - _STEPS.bit_length())
    return -(-n // step) * step


def split(n: int, most: int) -> list[Call]:
    """The calls that compute n windows, at most so many each."""
    return [(first, min(bucket(n - first), most)) for first in range(0, n, most)]


def price(rule: WindowRule, grid: TileGrid, n: int, images: int, most: Most) -> tuple[list[Call], float]:
    """The calls that compute n windows of a batch, and the ms that they should take; no calls where whole maps are
    cheaper, or nothing is dirty."""
    if not n:
        return [], 0.0
    there = images * grid.count
    calls = split(n, min(most(grid.window) or there, there))
    cells = math.prod(grid.window) * sum(size for _, size in calls)
    windows = len(calls) * rule.fixed_ms + rule.ms_per_cell * cells
    whole = rule.fixed_ms + rule.ms_per_cell * math.prod(grid.cells) * images
    return (calls, windows) if windows < whole else ([], whole)


def choose_grids(grid: RegionGrid, most: Sequence[Most], fraction: float) -> tuple[TileGrid, ...]:
    """The tiles of every window rule: of those tried, the cheapest on an image of which that fraction is active. Rules
    of the same cells have the same tiles, so that these are looked for once."""
    rules = grid.dirtiness
    maps = dirty_maps(rules.maps, _ellipses(grid, fraction))
    chosen: list[Pair] = []
    for index, cells in enumerate(rules.cells):
        sharing = [pair for pair in zip(rules.windows, most, strict=True) if pair[0].cell_rule == index]
        active, whole = dirty_cells(cells, maps), cells.cells
        tried = dict.fromkeys(_tile(side, whole, [rule for rule, _ in sharing]) for side in SIDES)
        chosen.append(min([whole, *tried], key=partial(_cost, active=active, cells=whole, sharing=sharing)))
    return tuple(
        _grid_of(rule, rules.cells[rule.cell_rule].cells, chosen[rule.cell_rule]) for rule in rules.windows
    )


def predict_ms(
    grid: RegionGrid, grids: Sequence[TileGrid], most: Sequence[Most], images: int, fraction: float
) -> float:
    """Of a region, on so many images of which that fraction is active."""
    rules = grid.dirtiness
    maps = dirty_maps(rules.maps, _ellipses(grid, fraction))
    total = 0.0
    for rule, own, limit in zip(rules.windows, grids, most, strict=True):
        n = _count(dirty_cells(rules.cells[rule.cell_rule], maps), own)
        total += price(rule, own, images * n, images, limit)[1]
    return total


def find_tiles(
    device: Device,
    grid: RegionGrid,
    grids: Sequence[TileGrid],
    masks: Mapping[str, DeviceArray],
    images: int,
) -> list[Tiles]:
    """The dirty tiles of every window rule, for the region's masks [N, C, h, w]. Rules that share tiles share `count`
    and `places`."""
    rules, maps = grid.dirtiness, []
    for rule in rules.maps:
        if rule.mask:
            maps.append(device.support(masks[rule.mask]))
        elif rule.terms:
            maps.append(device.reach([Reach(maps[source], term) for source, term in rule.terms], rule.size))
        else:
            maps.append(device.everywhere((images, *rule.size)))
    found: dict[tuple[int, Pair], Tiles] = {}
    for rule, own in zip(rules.windows, grids, strict=True):
        if (rule.cell_rule, own.tile) not in found:
            parts = [(maps[index], positions) for index, positions in rules.cells[rule.cell_rule].parts]
            found[rule.cell_rule, own.tile] = device.find_tiles(parts, own)
    pairs = zip(rules.windows, grids, strict=True)
    return [replace(found[rule.cell_rule, own.tile], grid=own) for rule, own in pairs]


def _tile(side: int, cells: Pair, sharing: Sequence[WindowRule]) -> Pair:
    """Along an axis where a tile with its halo would not be smaller than the map, it is the map."""
    halos = [[rule.halo[axis] + rule.halo[axis + 2] for rule in sharing] for axis in (0, 1)]
    high, wide = (side if side + max(halo) < n else n for n, halo in zip(cells, halos, strict=True))
    return high, wide


def _grid_of(rule: WindowRule, cells: Pair, tile: Pair) -> TileGrid:
    if rule.strategy == "dense":
        tile = cells
    top, left, bottom, right = (0 if tile[i % 2] == cells[i % 2] else n for i, n in enumerate(rule.halo))
    return TileGrid(cells, tile, (top, left), (bottom, right))


def _cost(tile: Pair, active: np.ndarray, cells: Pair, sharing: Sequence[tuple[WindowRule, Most]]) -> float:
    total = 0.0
    for rule, most in sharing:
        grid = _grid_of(rule, cells, tile)
        total += price(rule, grid, _count(active, grid), 1, most)[1]
    return total


def _ellipses(grid: RegionGrid, fraction: float) -> dict[str, np.ndarray]:
    return {name: ellipse(grid.sizes[name], fraction) for name in grid.region.masks}


def _count(active: np.ndarray, grid: TileGrid) -> int:
    """The dirty tiles of bool [cy, cx]."""
    return int(np.count_nonzero(project_cells(active, grid.tile, count_cells(grid.cells, grid.tile))))
