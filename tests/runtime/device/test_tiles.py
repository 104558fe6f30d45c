"""Sizes of tiles, batches of windows, and what they should cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from foveate.runtime import load
from foveate.runtime.costs import DeviceCosts, SegmentCost
from foveate.runtime.device.device import TileGrid
from foveate.runtime.device.tiles import bucket, choose_grids, predict_ms, price, split
from foveate.runtime.dirtiness import WindowRule
from foveate.runtime.grid import RegionGrid, grid_of
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 10**6))
def test_few_sizes_of_batches_and_at_most_a_quarter_more(n: int):
    assert n <= bucket(n) < 1.25 * n + 1e-9 or bucket(n) == n
    assert bucket(bucket(n)) == bucket(n) and bucket(n) <= bucket(n + 1)


def test_four_sizes_from_a_power_of_two_to_the_next():
    assert sorted({bucket(n) for n in range(1, 65)}) == [
        *range(1, 9),
        10,
        12,
        14,
        16,
        20,
        24,
        28,
        32,
        40,
        48,
        56,
        64,
    ]


@given(st.integers(1, 500), st.integers(1, 40))
def test_calls_cover_all_windows(n: int, most: int):
    calls = split(n, most)
    assert [first for first, _ in calls] == list(range(0, n, most))
    assert all(size <= most for _, size in calls) and sum(size for _, size in calls) >= n


def any_number(window: tuple[int, int]) -> int:
    return 0


def test_whole_maps_where_they_cost_less():
    rule = WindowRule(0, (1, 1, 1, 1), "rects", fixed_ms=1.0, ms_per_cell=0.1)
    grid = TileGrid((8, 8), (2, 2), (1, 1), (1, 1))
    assert price(rule, grid, 0, 2, any_number) == ([], 0.0)
    assert price(rule, grid, 3, 2, any_number) == ([(0, 3)], pytest.approx(1 + 0.1 * 16 * 3))
    assert price(rule, grid, 3, 2, lambda _: 2) == ([(0, 2), (2, 1)], pytest.approx(2 + 0.1 * 16 * 3))
    assert price(rule, grid, 8, 2, any_number) == ([], pytest.approx(1 + 0.1 * 128))
    assert price(rule, grid, 9, 20, any_number) == ([(0, 10)], pytest.approx(1 + 0.1 * 16 * 10))
    assert price(rule, grid, 9, 20, {(4, 4): 9}.__getitem__)[0] == [(0, 9)], "an engine that takes no more"


@pytest.fixture
def region_grid(handmade: Path, hosted: Any):
    """The handmade region's, at 256 × 256, by what calls cost."""
    with load(handmade, backend=hosted(), strategy="rects") as model:
        (region,) = model.executor.regions
    sides = {"x": 128, "mask0.keep": 128, "keep2": 64, "a": 128, "b": 64, "c": 64, "d": 128}
    shapes = {name: (1, 8, side, side) for name, side in sides.items()}

    def make(fixed_ms: float) -> RegionGrid:
        segments = {name: SegmentCost(fixed_ms, 0.001) for name in "abcd"}
        return grid_of(region, shapes, DeviceCosts({}, (1, 4, 256, 256), segments, {"region0": 1.0}))

    return make


def test_tiles_fit_and_are_chosen_by_cost(region_grid):
    grid = region_grid(0.0)
    rules = grid.dirtiness.windows
    most = [any_number] * len(rules)
    grids = choose_grids(grid, most, 0.1)
    for rule, tiles in zip(rules, grids, strict=True):
        sides = zip(tiles.tile, tiles.window, tiles.cells, rule.halo[:2], rule.halo[2:], strict=True)
        for tile, window, cells, low, high in sides:
            assert 0 < tile <= window <= cells and window == (cells if tile == cells else low + tile + high)
    shared = {(rule.cell_rule, tiles.tile) for rule, tiles in zip(rules, grids, strict=True)}
    assert len(shared) == len({rule.cell_rule for rule in rules})
    assert all(tiles.tile < tiles.cells for tiles in grids)
    one = [lambda _: 1] * len(rules)
    few = choose_grids(grid, one, 0.1)
    dear = choose_grids(region_grid(10.0), one, 0.1)  # each window is a call
    assert [t.tile for t in few] == [t.tile for t in grids]
    assert all(tiles.tile == tiles.cells for tiles in dear)
    growing = [predict_ms(grid, grids, most, 4, fraction) for fraction in (0.0, 0.05, 0.2, 0.6, 1.0)]
    assert growing[0] == 0 and growing == sorted(growing)
