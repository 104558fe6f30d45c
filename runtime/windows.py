"""Windows: rectangles of cells, grown by a segment's halo and clamped to the image, as slices of its tensors."""

from __future__ import annotations

import numpy as np

from .manifest import GridTensor, Pair

Halo = tuple[int, int, int, int]  # cells at the top, left, bottom, right
Slices = tuple[slice, ...]


class Windows:
    """The calls that compute a set of rectangles: what each reads, what of its answer is kept, and where that goes.

    rects: int [n, 4] (y0, x0, y1, x1) in cells, half open. `cells` is the whole grid. Slices are worked out once for
    all tensors with the same positions a cell and the same size, so segments that share a cover share them too.
    """

    def __init__(self, rects: np.ndarray, halo: Halo, cells: Pair):
        top, left, bottom, right = halo
        self._rects: list[list[int]] = rects.tolist()
        self._grown = [
            [max(y0 - top, 0), max(x0 - left, 0), min(y1 + bottom, cells[0]), min(x1 + right, cells[1])]
            for y0, x0, y1, x1 in self._rects
        ]
        self.count = len(self._rects)
        self.area = sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in self._grown)  # cells, halo included
        self.whole = self.count == 1 and self.area == cells[0] * cells[1]  # one call on the whole map
        self._slices: dict[tuple, list] = {}

    def reads(self, tensor: GridTensor, size: Pair) -> list[Slices]:
        """For each call, the slice of an input of `size` positions."""
        key = ("read", tensor.positions, tensor.axes, size)
        if key not in self._slices:
            self._slices[key] = [_slices(grown, tensor, size) for grown in self._grown]
        return self._slices[key]

    def writes(self, tensor: GridTensor, size: Pair) -> list[tuple[Slices, Slices]]:
        """For each call, the slice of the whole output that is written, and that of the engine's answer it is."""
        key = ("write", tensor.positions, tensor.axes, size)
        if key not in self._slices:
            pairs = zip(self._rects, self._grown, strict=True)
            self._slices[key] = [_writes(rect, grown, tensor, size) for rect, grown in pairs]
        return self._slices[key]


def whole_map(cells: Pair) -> Windows:
    """One call on everything."""
    return Windows(np.array([[0, 0, cells[0], cells[1]]]), (0, 0, 0, 0), cells)


def _slices(rect: list[int], tensor: GridTensor, size: Pair) -> Slices:
    """Cells [c0, c1) are positions [c0·p, min(c1·p, size)) along each axis."""
    index = [slice(None)] * (max(tensor.axes) + 1)
    for axis in (0, 1):
        per, n = tensor.positions[axis], size[axis]
        index[tensor.axes[axis]] = slice(rect[axis] * per, min(rect[axis + 2] * per, n))
    return tuple(index)


def _writes(rect: list[int], grown: list[int], tensor: GridTensor, size: Pair) -> tuple[Slices, Slices]:
    target = _slices(rect, tensor, size)
    crop = list(target)
    for axis in (0, 1):
        origin, part = grown[axis] * tensor.positions[axis], target[tensor.axes[axis]]
        crop[tensor.axes[axis]] = slice(part.start - origin, part.stop - origin)
    return target, tuple(crop)
