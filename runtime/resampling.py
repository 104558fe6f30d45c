"""Maps to another size as torch's `interpolate` does it, with numpy alone: no antialiasing, half-pixel centres.

Pictures are resized by `preprocess`, which widens the triangle where it shrinks; networks' outputs are not.
"""

from __future__ import annotations

import functools

import numpy as np

from .manifest import Pair


def bilinear(plane: np.ndarray, size: Pair) -> np.ndarray:
    """float32 [h, w] → float32 [H, W]: `interpolate(mode="bilinear", align_corners=False)`, but for the last bit.

    May be `plane` itself."""
    for axis in (1, 0):
        if plane.shape[axis] != size[axis]:
            plane = _along(plane, axis, size[axis])
    return plane


def _along(plane: np.ndarray, axis: int, n: int) -> np.ndarray:
    first, second, near, far = _neighbours(plane.shape[axis], n)
    mixed, other = plane.take(first, axis=axis), plane.take(second, axis=axis)
    mixed *= near if axis else near[:, None]  # in place: a third of the time goes into new memory otherwise
    other *= far if axis else far[:, None]
    mixed += other
    return mixed


def nearest(plane: np.ndarray, size: Pair) -> np.ndarray:
    """[h, w] → [H, W] of any dtype: `interpolate(mode="nearest")`, which takes position floor(i · h / H)."""
    rows, columns = (_floors(length, n) for length, n in zip(plane.shape, size, strict=True))
    return plane[rows[:, None], columns]


@functools.lru_cache(maxsize=64)
def _neighbours(length: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each of n positions the two that it lies between, and their weights, float32 [n].

    torch computes places in float32, with one rounding; weights from better places would differ from its by 1e-5."""
    scale = np.float64(np.float32(length) / np.float32(n))
    places = np.maximum((scale * (np.arange(n) + 0.5) - 0.5).astype(np.float32), 0)
    first = np.minimum(places.astype(np.intp), length - 1)
    far = np.clip(places - first.astype(np.float32), 0, 1)
    return first, np.minimum(first + 1, length - 1), 1 - far, far


@functools.lru_cache(maxsize=64)
def _floors(length: int, n: int) -> np.ndarray:
    scale = np.float32(length) / np.float32(n)
    return np.minimum((np.arange(n, dtype=np.float32) * scale).astype(np.intp), length - 1)
