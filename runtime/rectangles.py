"""Cover a set of active cells by rectangles, each of which will be one engine call.

The cost of a call is modelled as `fixed + (height + halo) · (width + halo)`, in cells. Over all dyadic blocks
of the map (every height and width a power of two) a dynamic program decides whether a block is run as the
bounding box of what it holds, or cut into its halves along either axis; then rectangles whose union is
cheaper are merged, which mends cuts through an object that happened to lie across a dyadic line. All blocks
of one size are priced by one array operation, so the time of a plan hardly depends on the map (0.1–0.8 ms). Where the
native library was built, native/cover.cpp does the same in some microseconds.
"""

from __future__ import annotations

import ctypes
import math
import threading
from itertools import pairwise

import numpy as np

from .native.library import library

Rects = np.ndarray  # int [n, 4]: y0, x0, y1, x1, half open

# Cuts fall between tiles, rectangles then shrink to the cell: at most so many tiles along what is active
FINEST = 16


def cover(active: np.ndarray, *, fixed: float, halo: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Rects:
    """Rectangles that hold every True cell of `active` (bool [H, W]); none where nothing is active.

    fixed: what a call costs beside its cells, in cells. halo: cells that a window adds at the top, left,
    bottom and right. Rectangles may overlap where two were merged around a third.
    """
    native = library()
    return cover_numpy(active, fixed, halo) if native is None else _cover_native(native, active, fixed, halo)


def _cover_native(
    native: ctypes.CDLL, active: np.ndarray, fixed: float, halo: tuple[int, int, int, int], limit: int = 64
) -> Rects:
    active = np.ascontiguousarray(active)
    rects = np.empty((limit, 4), np.int64)
    rim = np.array(halo, np.int32)
    found = native.fv_cover(
        active.ctypes.data, *active.shape, fixed, rim.ctypes.data, rects.ctypes.data, limit
    )
    if found < 0:
        return cover_numpy(active, fixed, halo)
    return rects[:found] if found <= limit else _cover_native(native, active, fixed, halo, found)


def cover_numpy(active: np.ndarray, fixed: float, halo: tuple[int, int, int, int]) -> Rects:
    """`cover` without the native library."""
    bounds = _bounding_box(active)
    if bounds is None:
        return np.empty((0, 4), np.intp)
    active = active[bounds[0] : bounds[2], bounds[1] : bounds[3]]
    whole = boxes = np.array([[0, 0, *active.shape]])
    if _cost(whole, fixed, halo) > _least(active, fixed, halo):
        step = -(-max(active.shape) // FINEST)
        tiles = any_pool(active, (step, step))
        rim = ((halo[0] + halo[2]) / step, (halo[1] + halo[3]) / step)
        boxes = _merge(_partition(tiles, fixed / step**2, rim), fixed / step**2, rim)
        if step > 1:
            boxes = _shrink(boxes, active, step)
        if _cost(boxes, fixed, halo) > _cost(whole, fixed, halo):  # tiles were too coarse
            boxes = whole
    return boxes + bounds[[0, 1, 0, 1]]


def _least(active: np.ndarray, fixed: float, halo: tuple[int, int, int, int]) -> float:
    """What two boxes or more cost at least: they cover these cells and have, in their rims, these rows and columns."""
    tall, wide = halo[0] + halo[2], halo[1] + halo[3]
    rows, columns = np.count_nonzero(active.any(1)), np.count_nonzero(active.any(0))
    return np.count_nonzero(active) + wide * rows + tall * columns + 2 * (fixed + tall * wide)


def _cost(boxes: np.ndarray, fixed: float, halo: tuple[int, int, int, int]) -> float:
    sides = boxes[:, 2:] - boxes[:, :2] + (halo[0] + halo[2], halo[1] + halo[3])
    return fixed * len(boxes) + float(sides.prod(1).sum())


def any_pool(active: np.ndarray, steps: tuple[int, int]) -> np.ndarray:
    """True where any cell of a block of `steps` rows and columns is; a partial block at the bottom or right counts as
    one."""
    return _any_rows(_any_rows(active, steps[0]).T, steps[1]).T


def _any_rows(active: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return active
    pooled = active[::step].copy()
    for offset in range(1, step):
        part = active[offset::step]
        pooled[: len(part)] |= part
    return pooled


def _partition(tiles: np.ndarray, fixed: float, rim: tuple[float, float]) -> np.ndarray:
    """The cheapest cover of `tiles` by bounding boxes of dyadic blocks: int [n, 4]."""
    side = 1 << (max(tiles.shape) - 1).bit_length()
    blocks = _work.blocks(side)
    y, x = np.nonzero(tiles)
    blocks.extents.fill(side)
    blocks.extents[:, y, x] = y, x, ~y, ~x  # ~y is −(y + 1)
    for half, other, parent in blocks.halvings:
        np.minimum(half, other, out=parent)
    top, left, bottom, right = blocks.extents
    whole = (np.float32(rim[0]) - bottom - top) * (np.float32(rim[1]) - right - left) + np.float32(fixed)
    np.copyto(whole, 0.0, where=top == side)  # nothing active: nothing to run
    blocks.best[...] = whole
    for half, other, parent, both in blocks.cuts:
        np.add(half, other, out=both)
        np.minimum(parent, both, out=parent)
    y, x = zip(*_leaves(whole, blocks.best, blocks.levels), strict=True)
    return np.abs(blocks.extents[:, y, x]).T.astype(np.intp)


class _Blocks:
    """Work arrays over all dyadic blocks of a side × side map, with the views that the planner goes through.

    Along each axis stand the `side` blocks of size 1, then those of size 2, 4 … side: 2·side − 1 in all.
    Making the views costs more than a plan, so they are kept for each thread.
    """

    def __init__(self, side: int):
        self.levels: list[slice] = []
        start, count = 0, side
        while count:
            self.levels.append(slice(start, start + count))
            start, count = start + count, count // 2
        # Top, left, −bottom and −right of what a block holds, top = side if nothing. With the far edges
        # negated, the extents of a block are the minimum of its halves' extents.
        self.extents = np.empty((4, start, start), np.float32)
        columns = [self.extents[:, :side, level] for level in self.levels]
        rows = [self.extents[:, level] for level in self.levels]
        self.halvings = [(a[..., 0::2], a[..., 1::2], b) for a, b in pairwise(columns)]
        self.halvings += [(a[:, 0::2], a[:, 1::2], b) for a, b in pairwise(rows)]
        self.best = np.empty((start, start), np.float32)
        self.cuts = []  # in an order in which the halves of a block are done before it
        for i, level in enumerate(self.levels):
            if i:
                halves = self.best[self.levels[i - 1]]
                self.cuts.append((halves[0::2], halves[1::2], self.best[level]))
            for small, large in pairwise(self.levels):
                halves = self.best[level, small]
                self.cuts.append((halves[:, 0::2], halves[:, 1::2], self.best[level, large]))
        self.cuts = [(*cut, np.empty_like(cut[-1])) for cut in self.cuts]


class _Work(threading.local):
    def __init__(self):
        self.kept: dict[int, _Blocks] = {}

    def blocks(self, side: int) -> _Blocks:
        if side not in self.kept:
            self.kept[side] = _Blocks(side)
        return self.kept[side]


_work = _Work()


def _leaves(whole: np.ndarray, best: np.ndarray, levels: list[slice]) -> list[tuple[int, int]]:
    """The blocks that the best partition runs whole, as positions in the pyramid."""
    # Memory views: their items are Python numbers, quicker than numpy's.
    price, cheapest = whole.data, best.data
    starts = [level.start for level in levels]
    leaves = []
    pending = [(len(levels) - 1, 0, len(levels) - 1, 0)]  # level and number along rows, along columns
    while pending:
        i, row, j, column = pending.pop()
        y, x = starts[i] + row, starts[j] + column
        cost = cheapest[y, x]
        if cost == 0:
            continue
        if cost == price[y, x]:
            leaves.append((y, x))
            continue
        upper = starts[i - 1] + 2 * row if i else 0
        left = starts[j - 1] + 2 * column if j else 0
        by_row = cheapest[upper, x] + cheapest[upper + 1, x] if i else math.inf
        by_column = cheapest[y, left] + cheapest[y, left + 1] if j else math.inf
        if by_row <= by_column:
            pending += [(i - 1, 2 * row, j, column), (i - 1, 2 * row + 1, j, column)]
        else:
            pending += [(i, row, j - 1, 2 * column), (i, row, j - 1, 2 * column + 1)]
    return leaves


def _merge(boxes: np.ndarray, fixed: float, rim: tuple[float, float]) -> np.ndarray:
    """Replaces pairs of boxes by their union while that lowers the cost: each time all pairs at once that gain more
    together than with any other box."""
    while len(boxes) > 1:
        y0, x0, y1, x1 = boxes.T
        height = np.maximum.outer(y1, y1) - np.minimum.outer(y0, y0) + rim[0]
        width = np.maximum.outer(x1, x1) - np.minimum.outer(x0, x0) + rim[1]
        union = height * width + fixed
        cost = union.diagonal()
        gain = np.add.outer(cost, cost) - union
        np.fill_diagonal(gain, 0.0)
        partner, number = gain.argmax(1), np.arange(len(boxes))
        mutual = (partner[partner] == number) & (gain[number, partner] > 0)
        if not mutual.any():
            break
        a = np.flatnonzero(mutual & (number < partner))
        b = boxes[partner[a]]
        merged = np.concatenate(
            [np.minimum(boxes[a, :2], b[:, :2]), np.maximum(boxes[a, 2:], b[:, 2:])], axis=1
        )
        boxes = np.concatenate([boxes[~mutual], merged])
    return boxes


def _bounding_box(active: np.ndarray) -> np.ndarray | None:
    rows = np.flatnonzero(active.any(1))
    if not rows.size:
        return None
    columns = np.flatnonzero(active.any(0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def _shrink(boxes: np.ndarray, active: np.ndarray, step: int) -> Rects:
    """Boxes of tiles, with something active along each border, to the boxes of the cells that they hold."""
    top, bottom = _tighten(boxes[:, 0::2], any_pool(active, (1, step)), boxes[:, 1::2], step)
    left, right = _tighten(boxes[:, 1::2], any_pool(active, (step, 1)).T, boxes[:, 0::2], step)
    return np.stack([top, left, bottom, right], axis=1)


def _tighten(
    along: np.ndarray, active: np.ndarray, across: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """First active cell and the end of the last, each int [n], for boxes that span the tiles `along` and `across` (int
    [n, 2], half open) of `active` (bool [cells along, tiles across])."""
    cells, tiles = active.shape
    before = np.zeros((cells, tiles + 1), np.intp)  # active tiles before each
    np.cumsum(active, axis=1, out=before[:, 1:])
    offset = np.arange(step)
    first = np.minimum(along[:, :1] * step + offset, cells - 1)
    last = np.maximum(np.minimum(along[:, 1:] * step, cells) - 1 - offset, 0)

    def reached(cell: np.ndarray) -> np.ndarray:
        held = before[cell, across[:, 1:]] > before[cell, across[:, :1]]
        return cell[np.arange(len(cell)), held.argmax(axis=1)]

    return reached(first), reached(last) + 1
