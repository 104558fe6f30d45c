"""The kernels of a device in this machine's memory, by their definitions, and the mistakes that they refuse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from foveate.runtime.device.device import Reach, TileGrid, Tiles
from foveate.runtime.device.host import HostArray, HostDevice
from foveate.runtime.errors import InternalError
from foveate.runtime.manifest import Term
from hypothesis import given, settings
from hypothesis import strategies as st

DEVICE = HostDevice()


@st.composite
def grids(draw: st.DrawFn) -> tuple[TileGrid, tuple[int, int]]:
    """Tiles that fit their cells, and the positions a cell of a tensor."""
    axes = []
    for _ in range(2):
        cells = draw(st.integers(1, 9))
        tile = draw(st.integers(1, cells))
        low = draw(st.integers(0, cells - tile))
        axes.append((cells, tile, low, draw(st.integers(0, cells - tile - low))))
    cells, tile, low, high = zip(*axes, strict=True)
    return TileGrid(cells, tile, low, high), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))


def owned(grid: TileGrid) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """The cells that are each tile's own, by the tile's place: those that it is the first to cover."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    starts = [range(0, n, tile) for n, tile in zip(grid.cells, grid.tile, strict=True)]
    for y, x in itertools.product(*starts):
        place = min(y, grid.cells[0] - grid.tile[0]), min(x, grid.cells[1] - grid.tile[1])
        inside = itertools.product(range(y, y + grid.tile[0]), range(x, x + grid.tile[1]))
        found[place] = [(i, j) for i, j in inside if i < grid.cells[0] and j < grid.cells[1]]
    return found


def read(array: HostArray) -> np.ndarray:
    return DEVICE.get([array])[0]


def listed(tiles: Tiles) -> list[tuple[int, ...]]:
    places, count = DEVICE.get([tiles.places, tiles.count])
    return [tuple(place) for place in places[: count[0]].tolist()]


@settings(deadline=None, max_examples=50)
@given(grids(), st.integers(1, 3), st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.5]))
def test_tiles_with_something_dirty_are_listed_once_and_in_order(case, images: int, seed: int, share: float):
    grid, positions = case
    size = [n * per for n, per in zip(grid.cells, positions, strict=True)]
    dirty = np.random.default_rng(seed).random((images, *size)) < share
    tiles = DEVICE.find_tiles([(DEVICE.put(dirty.astype(np.uint8)), positions)], grid)
    blocks = dirty.reshape(images, grid.cells[0], positions[0], grid.cells[1], positions[1])
    cells = np.any(blocks, axis=(2, 4))
    expected = [
        (image, *place)
        for image in range(images)
        for place, own in owned(grid).items()
        if any(cells[(image, y, x)] for y, x in own)
    ]
    assert listed(tiles) == sorted(expected) == expected
    assert sum(map(len, owned(grid).values())) == grid.cells[0] * grid.cells[1]


@settings(deadline=None, max_examples=50)
@given(grids(), st.integers(1, 3), st.integers(0, 2**32), st.integers(0, 3), st.booleans())
def test_windows_are_taken_put_and_restored(case, images: int, seed: int, first: int, shared: bool):
    """Windows that are put back where they were taken leave all as it is; other values are written into what the tiles
    own, and nowhere else; what is restored is the reference again."""
    grid, positions = case
    size = [n * per for n, per in zip(grid.cells, positions, strict=True)]
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((images, 2, *size)).astype(np.float32)
    read = source[:1] if shared else source
    dirty = DEVICE.put((rng.random((images, *grid.cells)) < 0.3).astype(np.uint8))
    tiles = DEVICE.find_tiles([(dirty, (1, 1))], grid)
    places = listed(tiles)
    n = max(0, len(places) - first) + 2  # more than there are
    windows = DEVICE.take_windows(DEVICE.put(read), tiles, positions, n, first)
    for k, window in enumerate(windows.values if places else []):
        image, *place = places[min(first + k, len(places) - 1)]
        top, left = (
            min(max(at - low, 0), cells - whole) * per
            for at, low, cells, whole, per in zip(
                place, grid.halo_low, grid.cells, grid.window, positions, strict=True
            )
        )
        of = read[0 if shared else image]
        expected = of[:, top : top + window.shape[1], left : left + window.shape[2]]
        np.testing.assert_array_equal(window, expected)
    if not shared:
        target = DEVICE.put(source)
        DEVICE.put_windows(target, tiles, positions, windows, first)
        np.testing.assert_array_equal(target.values, source)
    reference = rng.standard_normal((1, 2, *size)).astype(np.float32)
    target = DEVICE.copy(DEVICE.put(reference), images)
    written = np.zeros((images, *grid.cells), bool)
    for image, top, left in places[first:]:
        for y, x in owned(grid)[top, left]:
            written[image, y, x] = True
    fill = DEVICE.put(np.full((n, 2, *windows.shape[2:]), 7, np.float32))
    DEVICE.put_windows(target, tiles, positions, fill, first)
    spread = written.repeat(positions[0], axis=1).repeat(positions[1], axis=2)[:, None]
    np.testing.assert_array_equal(target.values, np.where(spread, np.float32(7), reference))
    DEVICE.restore_tiles(target, DEVICE.put(reference), tiles, positions, len(places) + seed % 3)
    np.testing.assert_array_equal(target.values, np.broadcast_to(reference, target.shape))


def test_what_lies_behind_the_border_is_zero():
    """Of a tensor whose last cells are not whole."""
    grid = TileGrid((2, 2), (1, 2), (0, 0), (1, 0))
    source = DEVICE.put(np.ones((1, 1, 3, 4), np.float32))
    tiles = DEVICE.find_tiles([(DEVICE.put(np.ones((1, 2, 2), np.uint8)), (1, 1))], grid)
    windows = DEVICE.take_windows(source, tiles, (2, 2), 2)
    np.testing.assert_array_equal(windows.values[1, 0, 3], 0)
    DEVICE.put_windows(source, tiles, (2, 2), DEVICE.put(2 * windows.values))
    assert (source.values == 2).all()


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 2),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(0, 2**32),
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(-3, 1), st.integers(0, 4)),
        min_size=1,
        max_size=2,
    ),
)
def test_terms_reach_what_the_manifest_says(images: int, n: int, size: int, seed: int, terms):
    rng = np.random.default_rng(seed)
    reaches, expected = [], np.zeros((images, size, size), bool)
    for num, den, low, more in terms:
        source = rng.random((images, n, n)) < 0.2
        term = Term("", (num, num), (den, den), (low, low), (low + more, low + more))
        reaches.append(Reach(DEVICE.put(source.astype(np.uint8)), term))
        for image, y, x in itertools.product(range(images), range(size), range(size)):
            ys, xs = ([o * num // den + d for d in range(low, low + more + 1)] for o in (y, x))
            pairs = [(i, j) for i in ys for j in xs if 0 <= i < n and 0 <= j < n]
            expected[image, y, x] |= any(source[image, i, j] for i, j in pairs)
    np.testing.assert_array_equal(read(DEVICE.reach(reaches, (size, size))), expected)


def test_support_and_tally():
    mask = np.zeros((2, 2, 2, 3), np.float16)
    mask[0, 1, 0, 2], mask[1, 0, 1, 0], mask[1, 1, 1, 0] = 1, np.nan, -np.inf
    expected = np.zeros((2, 2, 3), np.uint8)
    expected[0, 0, 2] = expected[1, 1, 0] = 1
    np.testing.assert_array_equal(read(DEVICE.support(DEVICE.put(mask))), expected)
    np.testing.assert_array_equal(read(DEVICE.tally(DEVICE.put(mask))), [[0, 1], [2, 2]])
    np.testing.assert_array_equal(
        read(DEVICE.tally(DEVICE.put(np.array([[0, 3], [2, 4]])))), [[0, 1], [0, 2]]
    )


def test_rows_are_taken_and_put():
    array, rows = np.arange(12).reshape(4, 3), DEVICE.put(np.array([2, 0], np.int32))
    taken = DEVICE.take_rows(DEVICE.put(array), rows)
    np.testing.assert_array_equal(taken.values, array[[2, 0]])
    target = DEVICE.put(np.zeros_like(array))
    DEVICE.put_rows(target, rows, taken)
    np.testing.assert_array_equal(target.values, [array[0], [0] * 3, array[2], [0] * 3])


def test_what_is_put_and_got_is_a_copy():
    array = np.arange(3.0)
    put = DEVICE.put(array)
    array[0] = 7
    (got,) = DEVICE.get([put])
    got[1] = 7
    assert put.values.tolist() == [0, 1, 2]


def test_memory_is_poison_before_it_is_written_and_after_it_is_freed():
    array = DEVICE.empty((2, 2), np.float32)
    assert np.isnan(array.values).all()
    view, kept = array.view((3,)), array.values
    array.values[:] = 1
    del array
    assert (view.values == 1).all(), "a view keeps what it views"
    del view
    assert np.isnan(kept).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: d.get([np.ones(3)]),
        lambda d: d.put([1, 2]),
        lambda d: d.tally(np.ones((2, 2))),
        lambda d: d.support(np.ones((1, 1, 2, 2))),
        lambda d: d.take_rows(d.put(np.ones((2, 2))), d.put(np.array([2], np.int32))),
        lambda d: d.take_rows(d.put(np.ones((2, 2))), d.put(np.array([0]))),
        lambda d: d.put_rows(d.put(np.ones((2, 2))), d.put(np.array([0], np.int32)), d.put(np.ones((2, 2)))),
        lambda d: d.copy(d.put(np.ones((2, 2))), 4),
        lambda d: d.empty((2,), np.float32).view((3,)),
        lambda d: d.find_tiles([(d.put(np.ones((1, 4, 4), np.uint8)), (1, 1))], grid(high=2)),
        lambda d: d.find_tiles([(d.put(np.ones((1, 4, 4), np.float32)), (1, 1))], grid()),
        lambda d: d.find_tiles([(d.put(np.ones((1, 9, 4), np.uint8)), (1, 1))], grid()),
        lambda d: d.take_windows(maps(d, 2), tiles(d, 2), (1, 1), 1),
        lambda d: d.put_windows(maps(d, 1), tiles(d, 0), (1, 1), d.put(np.ones((1, 1, 4, 4), np.float32))),
        lambda d: d.restore_tiles(maps(d, 2), maps(d, 2), tiles(d, 0), (1, 1), 1),
        lambda d: d.copy_into(maps(d, 2), maps(d, 1)),
    ],
)
def test_mistakes_are_refused(wrong):
    with pytest.raises(InternalError):
        wrong(HostDevice())


def grid(high: int = 1) -> TileGrid:
    return (
        TileGrid((4, 4), (2, 2), (1, 1), (high, high))
        if high > 1
        else TileGrid((4, 4), (2, 2), (0, 0), (1, 1))
    )


def maps(device: HostDevice, images: int) -> HostArray:
    return device.put(np.ones((images, 1, 4, 4), np.float32))


def tiles(device: HostDevice, image: int) -> Tiles:
    """One, of an image."""
    places = device.put(np.array([[image, 0, 0]], np.int32))
    return Tiles(grid(), places, device.put(np.array([1], np.int32)))
