"""Cover a set of active cells by rectangles, each of which will be one engine call.

The cost of a call is modelled as `fixed + (height + halo) · (width + halo)`, in cells. Over all dyadic blocks
of the map (every height and width a power of two) a dynamic program decides whether a block is run as the
bounding box of what it holds, or cut into its halves along either axis; then rectangles whose union is
cheaper are merged, which mends cuts through an object that happened to lie across a dyadic line. All blocks
of one size are priced by one array operation, so the time of a plan hardly depends on the map (0.1–0.5 ms).
"""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np

Rects = np.ndarray  # int [n, 4]: y0, x0, y1, x1, half open

# Cuts fall between tiles, rectangles then shrink to the cell: at most so many tiles along the longer side of the map,
FINEST = 32
COARSER = 4  # … and beyond that many cells, of so many cells at least: as good, and done in three quarters of the time


def cover(active: np.ndarray, *, fixed: float, halo: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Rects:
    """Rectangles that hold every True cell of `active` (bool [H, W]); none where nothing is active.

    fixed: what a call costs beside its cells, in cells. halo: cells that a window adds at the top, left,
    bottom and right. Rectangles may overlap where two were merged around a third.
    """
    longer = max(active.shape)
    step = max(-(-longer // FINEST), COARSER if longer > FINEST else 1)
    tiles = any_pool(active, step)
    bounds = _bounding_box(tiles)
    if bounds is None:
        return np.empty((0, 4), np.intp)
    rim = ((halo[0] + halo[2]) / step, (halo[1] + halo[3]) / step)
    fixed /= step**2
    boxes = bounds[None]
    if (bounds[2:] - bounds[:2]).prod() - np.count_nonzero(tiles) > fixed:  # else no cut can pay for a call
        boxes = _merge(_partition(tiles, fixed, rim), fixed, rim)
    if step > 1:
        boxes = np.array([_shrink(active, box * step) for box in boxes])
    return boxes


def any_pool(active: np.ndarray, step: int) -> np.ndarray:
    """True where any cell of a step × step block is; a partial block at the bottom or right counts as one."""
    if step == 1:
        return active
    rows = active[::step].copy()
    for offset in range(1, step):
        part = active[offset::step]
        rows[: len(part)] |= part
    pooled = rows[:, ::step].copy()
    for offset in range(1, step):
        part = rows[:, offset::step]
        pooled[:, : part.shape[1]] |= part
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
    whole[top == side] = 0.0  # nothing active: nothing to run
    blocks.best[...] = whole
    for half, other, parent, both in blocks.cuts:
        np.add(half, other, out=both)
        np.minimum(parent, both, out=parent)
    boxes = [blocks.extents[:, y, x] for y, x in _leaves(whole, blocks.best, blocks.levels)]
    return np.abs(np.array(boxes)).astype(np.intp)


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
    leaves = []
    pending = [(len(levels) - 1, 0, len(levels) - 1, 0)]  # level and number along rows, along columns
    while pending:
        i, row, j, column = pending.pop()
        y, x = levels[i].start + row, levels[j].start + column
        if best[y, x] == 0:
            continue
        if best[y, x] == whole[y, x]:
            leaves.append((y, x))
            continue
        above = levels[i - 1].start + 2 * row if i else 0
        if i and best[above, x] + best[above + 1, x] == best[y, x]:
            pending += [(i - 1, 2 * row, j, column), (i - 1, 2 * row + 1, j, column)]
        else:
            pending += [(i, row, j - 1, 2 * column), (i, row, j - 1, 2 * column + 1)]
    return leaves


def _merge(boxes: np.ndarray, fixed: float, rim: tuple[float, float]) -> np.ndarray:
    """Replaces pairs of boxes by their union while that lowers the cost: each time all pairs at once that gain more
    together than with any other box."""
    while len(boxes) > 1:
        near = np.minimum(boxes[:, None, :2], boxes[None, :, :2])
        far = np.maximum(boxes[:, None, 2:], boxes[None, :, 2:])
        union = (far - near + rim).prod(-1) + fixed
        cost = union.diagonal()
        gain = cost[:, None] + cost - union
        np.fill_diagonal(gain, 0.0)
        partner, number = gain.argmax(1), np.arange(len(boxes))
        mutual = (partner[partner] == number) & (number < partner) & (gain[number, partner] > 0)
        a, b = number[mutual], partner[mutual]
        if not len(a):
            break
        merged = np.concatenate([near[a, b], far[a, b]], axis=1)
        boxes = np.concatenate([np.delete(boxes, [a, b], axis=0), merged])
    return boxes


def _bounding_box(active: np.ndarray) -> np.ndarray | None:
    rows = np.flatnonzero(active.any(1))
    if not rows.size:
        return None
    columns = np.flatnonzero(active.any(0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def _shrink(active: np.ndarray, box: np.ndarray) -> np.ndarray:
    y0, x0, y1, x1 = box
    inner = _bounding_box(active[y0:y1, x0:x1])
    assert inner is not None, "every box of a cover holds something"
    return inner + np.array([y0, x0, y0, x0])
