"""The kernels of selective execution on an emulated GPU, against numpy: any sizes, both orders of blocks and threads."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.runtime import geometry
from foveate.runtime.cuda import kernels
from foveate.runtime.device.device import Reach, TileGrid, Tiles
from foveate.runtime.manifest import Term
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import BACKWARDS, Array

pytestmark = pytest.mark.usefixtures("emulation")
few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SEEDS = st.integers(0, 2**32 - 1)
STREAMS = st.sampled_from([0, BACKWARDS])
DTYPES = st.sampled_from([np.uint8, np.float16, np.float32, np.float64, np.int64, np.bool_])


def random_of(seed: int, shape, dtype, some: float = 0.1) -> np.ndarray:
    """Mostly 0."""
    random = np.random.default_rng(seed)
    return (random.integers(1, 100, shape) * (random.random(shape) < some)).astype(dtype)


def shifted(array: np.ndarray, by: int) -> np.ndarray:
    """A copy that begins at an address of its own: `by` elements behind a multiple of 16 bytes or more."""
    memory = np.zeros(array.size + by + 64, array.dtype)
    start = -(memory.ctypes.data // array.itemsize) % (64 // array.itemsize) + by
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


@few
@given(SEEDS, st.integers(1, 5), st.integers(0, 6), st.integers(1, 2500), DTYPES, st.integers(0, 3), STREAMS)
def test_rows_are_taken_put_and_repeated(seed, rows, n, length, dtype, shift, stream):
    random = np.random.default_rng(seed)
    source = shifted(random_of(seed, (rows, length), dtype, 1), shift)
    which = random.integers(0, rows, n).astype(np.int32)
    out = np.zeros((n, length), dtype)
    kernels.take_rows(Array(out), Array(source), Array(which), stream)
    np.testing.assert_array_equal(out, source[which])

    order = random.permutation(rows).astype(np.int32)[:n]
    target, values = source.copy(), random_of(seed + 1, (len(order), length), dtype, 1)
    kernels.put_rows(Array(target), Array(values), Array(order), stream)
    expected = source.copy()
    expected[order] = values
    np.testing.assert_array_equal(target, expected)

    kernels.repeat(Array(out), Array(source[:1]), stream)
    np.testing.assert_array_equal(out, np.broadcast_to(source[:1], out.shape))


@few
@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 60), DTYPES, STREAMS)
def test_a_mask_supports_what_any_channel_has(seed, n, c, h, w, dtype, stream):
    mask = random_of(seed, (n, c, h, w), dtype)
    if mask.dtype.kind == "f":
        mask.flat[0], mask.flat[-1] = -0.0, np.nan
    out = np.full((n, h, w), 7, np.uint8)
    kernels.support(Array(out), Array(mask), stream)
    np.testing.assert_array_equal(out, (mask != 0).any(1))
    np.testing.assert_array_equal(out[0].astype(bool), geometry.support(mask[:1]))


@few
@given(SEEDS, st.integers(1, 3), st.integers(1, 9000), DTYPES, STREAMS)
def test_numbers_that_are_wild_or_not_zero_are_counted(seed, n, size, dtype, stream):
    array = random_of(seed, (n, size), dtype, 0.3)
    if array.dtype.kind == "f":
        array[array == 1], array[array == 2], array[array == 3], array[array == 4] = (
            np.nan,
            np.inf,
            -np.inf,
            -0.0,
        )
    out = np.full((n, 2), 7, np.int32)
    kernels.tally(Array(out), Array(array), stream)
    np.testing.assert_array_equal(out, np.stack([(~np.isfinite(array)).sum(1), (array != 0).sum(1)], 1))


@st.composite
def terms(draw):
    """A size, and sources with their terms."""
    size = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    made = []
    for _ in range(draw(st.integers(0, 3))):
        ratio = [draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 2), (8, 1), (1, 5)])) for _ in range(2)]
        low = [draw(st.integers(-40, 5)) for _ in range(2)]
        high = [at + draw(st.integers(0, 60)) for at in low]
        length = [
            max(1, n * a // b + draw(st.integers(-3, 3))) for n, (a, b) in zip(size, ratio, strict=True)
        ]
        num, den = zip(*ratio, strict=True)
        made.append((tuple(length), Term("", num, den, tuple(low), tuple(high))))
    return size, made


@few
@given(SEEDS, st.integers(1, 2), terms(), st.floats(0, 0.1), STREAMS)
def test_reach_is_what_the_runtime_on_the_cpu_computes(seed, n, given_terms, some, stream):
    size, made = given_terms
    sources = [random_of(seed + i, (n, *length), np.uint8, some) for i, (length, _) in enumerate(made)]
    out = np.full((n, *size), 7, np.uint8)
    reached = [Reach(Array(source), term) for source, (_, term) in zip(sources, made, strict=True)]
    kernels.reach(Array(out), reached, stream)
    for image in range(n):
        reasons = [(source[image] != 0, term) for source, (_, term) in zip(sources, made, strict=True)]
        expected = geometry.dirty_map(reasons, size) if reasons else np.zeros(size, bool)
        np.testing.assert_array_equal(out[image], expected)


def test_more_terms_than_a_launch_takes_are_united():
    source = np.zeros((1, 1, 90), np.uint8)
    source[0, 0, 45] = 1
    terms = [Reach(Array(source), Term("", low=(0, i), high=(0, i))) for i in range(0, -70, -2)]
    out = np.full((1, 1, 90), 7, np.uint8)
    kernels.reach(Array(out), terms)
    assert out[0, 0].nonzero()[0].tolist() == list(range(45, 90, 2))


@st.composite
def grids(draw):
    axes = []
    for _ in range(2):
        tile, low, high = draw(st.integers(1, 12)), draw(st.integers(0, 5)), draw(st.integers(0, 5))
        axes.append((low + tile + high + draw(st.integers(0, 40)), tile, low, high))
    return TileGrid(*(tuple(a[i] for a in axes) for i in range(4)))


def tiles_of(grid: TileGrid, batch: int) -> Tiles:
    capacity = batch * grid.count
    return Tiles(grid, Array(np.full((capacity, 3), -9, np.int32)), Array(np.full(1, -9, np.int32)))


def own_cells(grid: TileGrid):
    """(row, column, own rows, own columns) of every tile of an image, in order."""
    for y in range(0, grid.cells[0], grid.tile[0]):
        for x in range(0, grid.cells[1], grid.tile[1]):
            row, column = min(y, grid.cells[0] - grid.tile[0]), min(x, grid.cells[1] - grid.tile[1])
            yield row, column, slice(y, y + grid.tile[0]), slice(x, x + grid.tile[1])


def scaled(part: slice, per: int) -> slice:
    return slice(part.start * per, part.stop * per)


@few
@given(SEEDS, grids(), st.integers(1, 3), st.floats(0, 0.02), st.integers(0, 2), STREAMS, st.data())
def test_tiles_with_something_dirty_are_found_in_order(seed, grid, n, some, count, stream, data):
    maps = []
    for i in range(count):
        per = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
        size = [c * p - data.draw(st.integers(0, p - 1)) for c, p in zip(grid.cells, per, strict=True)]
        maps.append((shifted(random_of(seed + i, (n, *size), np.uint8, some), i), per))
    tiles, scratch = tiles_of(grid, n), np.zeros(kernels.scratch_bytes(n, grid), np.uint8)
    kernels.find_tiles(tiles, Array(scratch), [(Array(m), per) for m, per in maps], n, stream)
    expected = [
        (image, row, column)
        for image in range(n)
        for row, column, ys, xs in own_cells(grid)
        if any(m[image][scaled(ys, per[0]), scaled(xs, per[1])].any() for m, per in maps)
    ]
    assert tiles.count.numbers.tolist() == [len(expected)]
    assert tiles.places.numbers[: len(expected)].tolist() == [list(place) for place in expected]
    assert not scratch[:4].any()


def test_many_tiles_are_listed_by_one_block():
    """More words of bits than the block has threads."""
    grid = TileGrid((100, 200), (1, 1), (0, 0), (0, 0))
    dirty = random_of(3, (1, 100, 200), np.uint8, 0.3)
    tiles, scratch = tiles_of(grid, 1), np.zeros(kernels.scratch_bytes(1, grid), np.uint8)
    for _ in range(2):
        kernels.find_tiles(tiles, Array(scratch), [(Array(dirty), (1, 1))], 1)
        expected = np.argwhere(dirty)
        assert tiles.count.numbers[0] == len(expected)
        np.testing.assert_array_equal(tiles.places.numbers[: len(expected)], expected)


@few
@given(SEEDS, grids(), st.integers(1, 2), st.integers(1, 3), DTYPES, st.floats(0, 0.05), STREAMS, st.data())
def test_windows_are_taken_put_and_restored(seed, grid, n, channels, dtype, some, stream, data):
    per = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 4), (3, 2), (2, 8)]))
    missing = [data.draw(st.integers(0, p - 1)) for p in per]  # of the last cells
    size = [c * p - m for c, p, m in zip(grid.cells, per, missing, strict=True)]
    dirty = random_of(seed, (n, *grid.cells), np.uint8, some)
    tiles, scratch = tiles_of(grid, n), np.zeros(kernels.scratch_bytes(n, grid), np.uint8)
    kernels.find_tiles(tiles, Array(scratch), [(Array(dirty), (1, 1))], n, stream)
    count = int(tiles.count.numbers[0])
    begin = data.draw(st.integers(0, max(0, count - 1)))
    asked = data.draw(st.integers(max(1, count - begin - 2), count - begin + 3))
    source = shifted(random_of(seed, (n, channels, *size), dtype, 1), data.draw(st.integers(0, 2)))
    window = [w * p for w, p in zip(grid.window, per, strict=True)]
    taken = np.full((asked, channels, *window), 77, dtype)
    kernels.take_windows(Array(taken), Array(source), tiles, per, begin, stream)

    padded = np.pad(source, [(0, 0), (0, 0), (0, missing[0]), (0, missing[1])])
    if not count:
        assert (taken == np.array(77, dtype)).all()
    starts = []
    for i in range(asked if count else 0):
        image, *place = tiles.places.numbers[min(begin + i, count - 1)].tolist()
        origin = [
            min(max(p - low, 0), cells - w)
            for p, low, cells, w in zip(place, grid.halo_low, grid.cells, grid.window, strict=True)
        ]
        starts.append([o * p for o, p in zip(origin, per, strict=True)])
        y, x = starts[-1]
        np.testing.assert_array_equal(taken[i], padded[image, :, y : y + window[0], x : x + window[1]])

    values = random_of(seed + 1, taken.shape, dtype, 1)
    reference = random_of(seed + 2, (1, channels, *size), dtype, 1)
    put, restored = source.copy(), source.copy()
    kernels.put_windows(Array(put), Array(values), tiles, per, begin, stream)
    kernels.restore_tiles(Array(restored), Array(reference), tiles, per, asked, stream)
    expected_put, expected_restored = source.copy(), source.copy()
    owned = {(row, column): (ys, xs) for row, column, ys, xs in own_cells(grid)}
    for i in range(count):
        image, row, column = tiles.places.numbers[i].tolist()
        ys, xs = (scaled(part, p) for part, p in zip(owned[row, column], per, strict=True))
        if i < asked:
            expected_restored[image, :, ys, xs] = reference[0, :, ys, xs]
        if begin <= i < begin + asked:
            top, left = ys.start - starts[i - begin][0], xs.start - starts[i - begin][1]
            part = expected_put[image, :, ys, xs]
            part[...] = values[i - begin, :, top : top + part.shape[1], left : left + part.shape[2]]
    np.testing.assert_array_equal(put, expected_put)
    np.testing.assert_array_equal(restored, expected_restored)
