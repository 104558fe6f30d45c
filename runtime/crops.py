"""Crops of one frame: what the program runs on, and how its answers are pasted into the previous ones.

From what changed outwards, in pixels of the image:

    (margin − blend) / 2    new, as far as the change reaches
    blend                   a linear ramp from new to previous
    (margin − blend) / 2    context: run, but not pasted

A program whose outputs depend on nothing farther off than (margin − blend) / 2 therefore answers exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .errors import InputError
from .geometry import count_cells
from .manifest import CropPlan, GridTensor, Pair
from .rectangles import Rects
from .region_policy import RegionPolicy
from .windows import Slices, Windows


class Crops:
    """`rects`, int [n, 4] (y0, x0, y1, x1) in pixels of an image of `size`, each grown by the margin, then to whole
    cells and to the height and width `least`, as far as the image goes."""

    def __init__(self, plan: CropPlan, policy: RegionPolicy, least: Pair, rects: Rects, size: Pair):
        self._plan, self._policy = plan, policy
        self._rects: list[list[int]] = rects.tolist()
        grown = [
            _grow(rects[:, i::2], policy.margin, least[i], plan.image.positions[i], size[i]) for i in (0, 1)
        ]
        cells = count_cells(size, plan.image.positions)
        self._windows = Windows(np.stack(grown, axis=2).reshape(-1, 4), (0, 0, 0, 0), cells)
        self.images: list[Slices] = self._windows.reads(plan.image, size)
        height, width = plan.image.axes
        self.areas = [_length(crop[height]) * _length(crop[width]) for crop in self.images]

    def inside(self, size: Pair) -> np.ndarray:
        """What is new once all is pasted: bool of `size`."""
        found = np.zeros(size, bool)
        for y0, x0, y1, x1 in self._rects:
            found[y0:y1, x0:x1] = True
        return found

    def paste(self, number: int, answer: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Writes the answer to a crop into the frame's outputs. Raises InputError where it does not fit."""
        for tensor in self._plan.outputs:
            new, whole = answer[tensor.name], outputs[tensor.name]
            size = whole.shape[tensor.axes[0]], whole.shape[tensor.axes[1]]
            target = self._windows.reads(tensor, size)[number]
            if new.shape != whole[target].shape:
                raise InputError(
                    f"regions of output {tensor.name!r}",
                    got=f"{list(new.shape)} for a crop",
                    expected=f"{list(whole[target].shape)}, its part of the frame's {list(whole.shape)}",
                    fix="Resize or pad the frames to multiples of the cells that `foveate inspect` tells.",
                )
            blend(new, whole[target], self._weights(number, tensor, target, whole.ndim))

    def _weights(self, number: int, tensor: GridTensor, target: Slices, rank: int) -> np.ndarray:
        """Of the new values: float32 from 0 to 1, over the axes of height and width."""
        rect, found = self._rects[number], np.ones([1] * rank, np.float32)
        for i, axis in enumerate(tensor.axes):
            pixels = self._plan.image.positions[i] / tensor.positions[i]  # an output's position
            centres = (np.arange(target[axis].start, target[axis].stop) + 0.5) * pixels
            along = weights(np.maximum(rect[i] - centres, centres - rect[i + 2]), self._policy)
            found = found * along.reshape([-1 if a == axis else 1 for a in range(rank)])
        return found


def weights(distance: np.ndarray, policy: RegionPolicy) -> np.ndarray:
    """Of a new value at a distance in pixels from what changed: 1, then the ramp, then 0. float32."""
    if policy.blend == 0:
        return (distance <= policy.margin / 2).astype(np.float32)
    ramp = ((policy.margin + policy.blend) / 2 - distance) / policy.blend
    return np.clip(ramp, 0, 1).astype(np.float32)


def blend(new: np.ndarray, previous: np.ndarray, weight: np.ndarray) -> None:
    """Mixes `new` into `previous` by `weight`, which broadcasts; of what is no float, such as labels, takes either."""
    if not np.issubdtype(new.dtype, np.floating):
        np.copyto(previous, new, where=weight >= 0.5)
        return
    with np.errstate(invalid="ignore"):  # infinite values that are not mixed
        mixed = weight * new + (1 - weight) * previous
    np.copyto(previous, mixed, where=(weight > 0) & (weight < 1), casting="same_kind")
    np.copyto(previous, new, where=weight == 1)


def _grow(spans: np.ndarray, margin: int, least: int, cell: int, size: int) -> np.ndarray:
    """Cells [first, end), int [n, 2], around `spans` of pixels along one axis."""
    first = np.clip(np.minimum(spans[:, 0] - margin, size - least) // cell, 0, None)
    end = np.minimum(np.maximum(spans[:, 1] + margin, first * cell + least), size)
    return np.stack([first, -(-end // cell)], axis=1)


def _length(part: slice) -> int:
    return part.stop - part.start
