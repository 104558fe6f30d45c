"""Images and maps turned and mirrored, as the elements of a group do it."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from ..export.groups import Element


def turned(array: np.ndarray, element: Element, axes: tuple[int, int] = (-2, -1)) -> np.ndarray:
    """The array with its maps over `axes` (height, width) mirrored left to right where the element says so, then turned
    counterclockwise. By multiples of 90° that is exact; else bilinear, with the border's values from beyond it."""
    array = np.flip(array, axes[1]) if element.mirrored else array
    if is_exact(element):
        return np.ascontiguousarray(np.rot90(array, round(element.angle / (pi / 2)), axes))
    maps = np.moveaxis(array, axes, (-2, -1))
    return np.ascontiguousarray(np.moveaxis(_bilinear(maps, element.angle), (-2, -1), axes))


def turned_back(array: np.ndarray, element: Element, axes: tuple[int, int] = (-2, -1)) -> np.ndarray:
    """The reverse of `turned`."""
    array = turned(array, Element(-element.angle), axes)
    return np.ascontiguousarray(np.flip(array, axes[1]) if element.mirrored else array)


def is_exact(element: Element) -> bool:
    quarters = element.angle / (pi / 2)
    return abs(quarters - round(quarters)) < 1e-9


def swaps_sides(element: Element) -> bool:
    """Whether height becomes width."""
    return is_exact(element) and round(element.angle / (pi / 2)) % 2 == 1


def disc(height: int, width: int) -> np.ndarray:
    """bool [H, W]: the positions that no turn about the center brings beyond the border."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in (height, width))
    return np.hypot(y[:, None], x) <= (min(height, width) - 1) / 2


def _bilinear(maps: np.ndarray, angle: float) -> np.ndarray:
    height, width = maps.shape[-2:]
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width) - (width - 1) / 2
    fy = np.clip(x * sin(angle) + y * cos(angle) + (height - 1) / 2, 0, height - 1)
    fx = np.clip(x * cos(angle) - y * sin(angle) + (width - 1) / 2, 0, width - 1)
    top, left = np.minimum(fy.astype(int), height - 2), np.minimum(fx.astype(int), width - 2)
    v, u = (fy - top).astype(maps.dtype), (fx - left).astype(maps.dtype)
    above = (1 - u) * maps[..., top, left] + u * maps[..., top, left + 1]
    below = (1 - u) * maps[..., top + 1, left] + u * maps[..., top + 1, left + 1]
    return (1 - v) * above + v * below
