"""Cover a set of active cells by rectangles, each of which will be one engine call.

The cost of a call is modelled as `fixed + (height + halo) · (width + halo)`, in cells. Over all dyadic blocks
of the map (every height and width a power of two) a dynamic program decides whether a block is run as the
bounding box of what it holds, or cut into its halves along either axis; then rectangles whose union is
cheaper are merged, which mends cuts through an object that happened to lie across a dyadic line. All blocks
of one size are priced by one array operation, so the time of a plan hardly depends on the map (0.1–0.5 ms).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Rects = np.ndarray  # int [n, 4]: y0, x0, y1, x1, half open

FINEST = (
    32  # tiles along the longer side of the map; cuts fall between tiles, rectangles then shrink to the cell
)


def cover(active: np.ndarray, *, fixed: float, halo: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Rects:
    """Rectangles that hold every True cell of `active` (bool [H, W]); none where nothing is active.

    fixed: what a call costs beside its cells, in cells. halo: cells that a window adds at the top, left,
    bottom and right. Rectangles may overlap where two were merged around a third.
    """
    step = -(-max(active.shape) // FINEST)
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
    extents = _block_extents(tiles, side)
    top, left, bottom, right = extents
    whole = (rim[0] - bottom - top) * (rim[1] - right - left) + fixed
    whole[top == side] = 0.0  # nothing active: nothing to run
    best = whole.copy()
    levels = _levels(side)
    for i, rows in enumerate(levels):
        if i:
            halves = best[levels[i - 1]]
            np.minimum(best[rows], halves[0::2] + halves[1::2], out=best[rows])
        for narrow, wide in pairwise(levels):
            halves = best[rows, narrow]
            np.minimum(best[rows, wide], halves[:, 0::2] + halves[:, 1::2], out=best[rows, wide])
    boxes = [extents[:, y, x] for y, x in _leaves(whole, best, levels)]
    return np.abs(np.array(boxes, np.intp))


def _levels(side: int) -> list[slice]:
    """Where the blocks of size 1, 2, 4 … `side` stand along an axis of the pyramid (2·side − 1 of them)."""
    levels, start, count = [], 0, side
    while count:
        levels.append(slice(start, start + count))
        start, count = start + count, count // 2
    return levels


def _block_extents(tiles: np.ndarray, side: int) -> np.ndarray:
    """[4, 2·side − 1, 2·side − 1]: top, left, −bottom, −right of what each block holds; top = side if none.

    With the far edges negated, the extents of a block are the minimum of its halves' extents.
    """
    levels = _levels(side)
    extents = np.full((4, 2 * side - 1, 2 * side - 1), side, np.int16)
    y, x = np.nonzero(tiles)
    extents[:, y, x] = y, x, ~y, ~x  # ~y is −(y + 1)
    for small, large in pairwise(levels):
        halves = extents[:, :side, small]
        np.minimum(halves[..., 0::2], halves[..., 1::2], out=extents[:, :side, large])
    for small, large in pairwise(levels):
        halves = extents[:, small]
        np.minimum(halves[:, 0::2], halves[:, 1::2], out=extents[:, large])
    return extents


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
    """Replaces pairs of boxes by their union while that lowers the cost."""
    while len(boxes) > 1:
        near = np.minimum(boxes[:, None, :2], boxes[None, :, :2])
        far = np.maximum(boxes[:, None, 2:], boxes[None, :, 2:])
        union = (far - near + rim).prod(-1) + fixed
        cost = union.diagonal()
        gain = cost[:, None] + cost - union
        np.fill_diagonal(gain, 0.0)
        a, b = divmod(int(gain.argmax()), len(boxes))
        if gain[a, b] <= 0:
            break
        merged = np.concatenate([near[a, b], far[a, b]])
        boxes = np.concatenate([np.delete(boxes, [a, b], axis=0), merged[None]])
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
