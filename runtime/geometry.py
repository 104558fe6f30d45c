"""Which positions are dirty: terms of the manifest applied to boolean maps, and maps projected onto cells.

A term reaches along height and width independently, so each is a box-any per axis. All maps are bool [h, w].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .manifest import Pair, Term

_SHIFTS = 8  # up to this many shifted slices are cheaper than a cumulative sum


def support(mask: np.ndarray, axes: Pair = (2, 3)) -> np.ndarray:
    """Where one image's mask tensor, e.g. [1, 1, H, W], is nonzero: bool [H, W] over its height and width axes."""
    active = mask != 0
    others = tuple(a for a in range(mask.ndim) if a not in axes)
    if all(mask.shape[a] == 1 for a in others):
        return active.reshape(mask.shape[axes[0]], mask.shape[axes[1]])
    return active.any(axis=others)


def is_identity(term: Term) -> bool:
    return term.num == term.den and term.low == (0, 0) and term.high == (0, 0)


def reach_map(source: np.ndarray, term: Term, size: Pair) -> np.ndarray:
    """Positions of a map of `size` that the term's dirty `source` reaches. The source itself where nothing changes."""
    if is_identity(term) and source.shape == tuple(size):
        return source
    for axis in (0, 1):
        args = size[axis], term.num[axis], term.den[axis], term.low[axis], term.high[axis]
        source = _reach_axis(source, axis, *args)
    return source


def dirty_map(terms: Sequence[tuple[np.ndarray, Term]], size: Pair) -> np.ndarray:
    """The union of what the terms reach from their sources' dirty positions: bool of `size`."""
    reached = [reach_map(source, term, size) for source, term in terms]
    return reached[0] if len(reached) == 1 else np.logical_or.reduce(reached)


def project_cells(positions: np.ndarray, per_cell: Pair, cells: Pair) -> np.ndarray:
    """Cells [cy, cx] of which any position is dirty."""
    for axis in (0, 1):
        per = per_cell[axis]
        positions = _reach_axis(positions, axis, cells[axis], per, 1, 0, per - 1)
    return positions


def count_cells(size: Pair, per_cell: Pair) -> Pair:
    """⌈size / positions a cell⌉ per axis."""
    return -(-size[0] // per_cell[0]), -(-size[1] // per_cell[1])


def _reach_axis(source: np.ndarray, axis: int, n: int, num: int, den: int, low: int, high: int) -> np.ndarray:
    """out[o] = any(source[⌊o·num/den⌋ + low … ⌊o·num/den⌋ + high]) along `axis`, for o < n."""
    if num == den and low == 0 and high == 0 and source.shape[axis] == n:
        return source
    if num % den == 0 and high - low < _SHIFTS:
        return _reach_shifts(source, axis, n, num // den, low, high)
    if num == 1 and high - low < _SHIFTS:
        coarse = _reach_shifts(source, axis, -(-n // den), 1, low, high)
        return np.repeat(coarse, den, axis=axis)[_at(axis, slice(n))]
    return _reach_sums(source, axis, n, num, den, low, high)


def _reach_shifts(source: np.ndarray, axis: int, n: int, stride: int, low: int, high: int) -> np.ndarray:
    """One strided slice of the source for every offset, OR-ed where it falls inside the source."""
    length = source.shape[axis]
    out = np.zeros((n, source.shape[1]) if axis == 0 else (source.shape[0], n), bool)
    for shift in range(low, high + 1):
        first = max(0, -(shift // stride))
        last = min(n, (length - 1 - shift) // stride + 1)
        if first < last:
            start = first * stride + shift
            taken = source[_at(axis, slice(start, start + (last - first - 1) * stride + 1, stride))]
            out[_at(axis, slice(first, last))] |= taken
    return out


def _reach_sums(source: np.ndarray, axis: int, n: int, num: int, den: int, low: int, high: int) -> np.ndarray:
    """Any reach and ratio: how many source positions lie before each end of the window, by cumulative sums."""
    length = source.shape[axis]
    base = np.arange(n) * num // den
    begin, end = np.clip(base + low, 0, length), np.clip(base + high + 1, 0, length)
    pad = [(1, 0), (0, 0)] if axis == 0 else [(0, 0), (1, 0)]
    sums = np.pad(np.cumsum(source, axis=axis, dtype=np.int32), pad)
    return sums.take(end, axis=axis) > sums.take(begin, axis=axis)


def _at(axis: int, part: slice) -> tuple[slice, ...]:
    return (part,) if axis == 0 else (slice(None), part)
