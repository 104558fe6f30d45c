"""The kernels of selective execution against numpy, emulated and on a GPU: any sizes, and both orders of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from foveate.runtime import geometry
from foveate.runtime.cuda import kernels
from foveate.runtime.device.device import Reach, TileGrid
from foveate.runtime.manifest import Term
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .tiles import BACKWARDS, SEEDS, own_cells, random_of, scaled, shifted, tiles_of

few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

DTYPES = st.sampled_from([np.uint8, np.float16, np.float32, np.float64, np.int64, np.bool_])


@few
@given(
    SEEDS, st.integers(1, 5), st.integers(0, 6), st.integers(1, 2500), DTYPES, st.integers(0, 3), BACKWARDS
)
def test_rows_are_taken_put_and_repeated(device, seed, rows, n, length, dtype, shift, backwards):
    random = np.random.default_rng(seed)
    source = shifted(random_of(seed, (rows, length), dtype, 1), shift)
    which = random.integers(0, rows, n).astype(np.int32)
    out = np.zeros((n, length), dtype)
    device.run(kernels.take_rows, out, source, which, backwards=backwards)
    np.testing.assert_array_equal(out, source[which])

    order = random.permutation(rows).astype(np.int32)[:n]
    target, values = source.copy(), random_of(seed + 1, (len(order), length), dtype, 1)
    device.run(kernels.put_rows, target, values, order, backwards=backwards)
    expected = source.copy()
    expected[order] = values
    np.testing.assert_array_equal(target, expected)

    device.run(kernels.repeat, out, source[:1], backwards=backwards)
    np.testing.assert_array_equal(out, np.broadcast_to(source[:1], out.shape))


@few
@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 60), DTYPES, BACKWARDS)
def test_a_mask_supports_what_any_channel_has(device, seed, n, c, h, w, dtype, backwards):
    mask = random_of(seed, (n, c, h, w), dtype)
    if mask.dtype.kind == "f":
        mask.flat[0], mask.flat[-1] = -0.0, np.nan
    out = np.full((n, h, w), 7, np.uint8)
    device.run(kernels.support, out, mask, backwards=backwards)
    np.testing.assert_array_equal(out, (mask != 0).any(1))
    np.testing.assert_array_equal(out[0].astype(bool), geometry.support(mask[:1]))


@few
@given(SEEDS, st.integers(1, 3), st.integers(1, 9000), DTYPES, BACKWARDS)
def test_numbers_that_are_wild_or_not_zero_are_counted(device, seed, n, size, dtype, backwards):
    array = random_of(seed, (n, size), dtype, 0.3)
    if array.dtype.kind == "f":
        array[array == 1], array[array == 2], array[array == 3], array[array == 4] = (
            np.nan,
            np.inf,
            -np.inf,
            -0.0,
        )
    out = np.full((n, 2), 7, np.int32)
    device.run(kernels.tally, out, array, backwards=backwards)
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
@given(SEEDS, st.integers(1, 2), terms(), st.floats(0, 0.1), BACKWARDS)
def test_reach_is_what_the_runtime_on_the_cpu_computes(device, seed, n, given_terms, some, backwards):
    size, made = given_terms
    sources: list[Any] = [
        random_of(seed + i, (n, *length), np.uint8, some) for i, (length, _) in enumerate(made)
    ]
    out = np.full((n, *size), 7, np.uint8)
    reached = [Reach(source, term) for source, (_, term) in zip(sources, made, strict=True)]
    device.run(kernels.reach, out, reached, backwards=backwards)
    for image in range(n):
        reasons = [(source[image] != 0, term) for source, (_, term) in zip(sources, made, strict=True)]
        expected = geometry.dirty_map(reasons, size) if reasons else np.zeros(size, bool)
        np.testing.assert_array_equal(out[image], expected)


def test_more_terms_than_a_launch_takes_are_united(device):
    source: Any = np.zeros((1, 1, 90), np.uint8)
    source[0, 0, 45] = 1
    terms = [Reach(source, Term("", low=(0, i), high=(0, i))) for i in range(0, -70, -2)]
    out = np.full((1, 1, 90), 7, np.uint8)
    device.run(kernels.reach, out, terms)
    assert out[0, 0].nonzero()[0].tolist() == list(range(45, 90, 2))


@st.composite
def grids(draw):
    axes = []
    for _ in range(2):
        tile, low, high = draw(st.integers(1, 12)), draw(st.integers(0, 5)), draw(st.integers(0, 5))
        axes.append((low + tile + high + draw(st.integers(0, 40)), tile, low, high))
    return TileGrid(*(tuple(a[i] for a in axes) for i in range(4)))


@few
@given(SEEDS, grids(), st.integers(1, 3), st.floats(0, 0.02), st.integers(0, 2), BACKWARDS, st.data())
def test_tiles_with_something_dirty_are_found_in_order(device, seed, grid, n, some, count, backwards, data):
    maps = []
    for i in range(count):
        per = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
        size = [c * p - data.draw(st.integers(0, p - 1)) for c, p in zip(grid.cells, per, strict=True)]
        maps.append((shifted(random_of(seed + i, (n, *size), np.uint8, some), i), per))
    tiles, scratch = tiles_of(grid, n), np.zeros(kernels.scratch_bytes(n, grid), np.uint8)
    device.run(kernels.find_tiles, tiles, scratch, [(m, per) for m, per in maps], n, backwards=backwards)
    expected = [
        (image, row, column)
        for image in range(n)
        for row, column, ys, xs in own_cells(grid)
        if any(m[image][scaled(ys, per[0]), scaled(xs, per[1])].any() for m, per in maps)
    ]
    assert tiles.count.tolist() == [len(expected)]
    assert tiles.places[: len(expected)].tolist() == [list(place) for place in expected]
    assert not scratch[:4].any()


def test_many_tiles_are_listed_by_one_block(device):
    """More words of bits than the block has threads."""
    grid = TileGrid((100, 200), (1, 1), (0, 0), (0, 0))
    dirty = random_of(3, (1, 100, 200), np.uint8, 0.3)
    tiles, scratch = tiles_of(grid, 1), np.zeros(kernels.scratch_bytes(1, grid), np.uint8)
    for _ in range(2):
        device.run(kernels.find_tiles, tiles, scratch, [(dirty, (1, 1))], 1)
        expected = np.argwhere(dirty)
        assert tiles.count[0] == len(expected)
        np.testing.assert_array_equal(tiles.places[: len(expected)], expected)


@few
@given(SEEDS, grids(), st.integers(1, 2), st.integers(1, 3), DTYPES, st.floats(0, 0.05), BACKWARDS, st.data())
def test_windows_are_taken_put_and_restored(device, seed, grid, n, channels, dtype, some, backwards, data):
    per = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 4), (3, 2), (2, 8)]))
    missing = [data.draw(st.integers(0, p - 1)) for p in per]  # of the last cells
    size = [c * p - m for c, p, m in zip(grid.cells, per, missing, strict=True)]
    dirty = random_of(seed, (n, *grid.cells), np.uint8, some)
    tiles, scratch = tiles_of(grid, n), np.zeros(kernels.scratch_bytes(n, grid), np.uint8)
    device.run(kernels.find_tiles, tiles, scratch, [(dirty, (1, 1))], n, backwards=backwards)
    count = int(tiles.count[0])
    begin = data.draw(st.integers(0, max(0, count - 1)))
    asked = data.draw(st.integers(max(1, count - begin - 2), count - begin + 3))
    source = shifted(random_of(seed, (n, channels, *size), dtype, 1), data.draw(st.integers(0, 2)))
    window = [w * p for w, p in zip(grid.window, per, strict=True)]
    taken = np.full((asked, channels, *window), 77, dtype)
    device.run(kernels.take_windows, taken, source, tiles, per, begin, backwards=backwards)

    padded = np.pad(source, [(0, 0), (0, 0), (0, missing[0]), (0, missing[1])])
    if not count:
        assert (taken == np.array(77, dtype)).all()
    starts = []
    for i in range(asked if count else 0):
        image, *place = tiles.places[min(begin + i, count - 1)].tolist()
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
    device.run(kernels.put_windows, put, values, tiles, per, begin, backwards=backwards)
    device.run(kernels.restore_tiles, restored, reference, tiles, per, asked, backwards=backwards)
    expected_put, expected_restored = source.copy(), source.copy()
    owned = {(row, column): (ys, xs) for row, column, ys, xs in own_cells(grid)}
    for i in range(count):
        image, row, column = tiles.places[i].tolist()
        ys, xs = (scaled(part, p) for part, p in zip(owned[row, column], per, strict=True))
        if i < asked:
            expected_restored[image, :, ys, xs] = reference[0, :, ys, xs]
        if begin <= i < begin + asked:
            top, left = ys.start - starts[i - begin][0], xs.start - starts[i - begin][1]
            part = expected_put[image, :, ys, xs]
            part[...] = values[i - begin, :, top : top + part.shape[1], left : left + part.shape[2]]
    np.testing.assert_array_equal(put, expected_put)
    np.testing.assert_array_equal(restored, expected_restored)
