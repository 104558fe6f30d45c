"""Groups of rotations and mirrors of the image plane, and what they do to vectors and to small square grids.

Angles go counterclockwise as an image is looked at, so that a turn by 90° is `np.rot90`; vectors are (x to the right,
y downwards).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from ..runtime.errors import InputError

FIELDS = {"scalar": 1, "vector": 2}  # what the channels of a map are, with the numbers in one


@dataclass(frozen=True)
class Element:
    """Mirrored left to right first, where `mirrored`, then turned by `angle` radians."""

    angle: float = 0.0
    mirrored: bool = False

    @property
    def name(self) -> str:
        return f"{'mirror, ' if self.mirrored else ''}{round(np.degrees(self.angle) * 10) / 10:g}°"


@dataclass(frozen=True)
class Group:
    """C<n>: turns by multiples of 2π/n. D4: turns by 90°, and mirrors. Raises InputError for another name."""

    name: str

    def __post_init__(self):
        if self.name != "D4" and not re.fullmatch(r"C([2-9]|[1-9]\d+)", self.name):
            raise InputError(
                "group",
                got=repr(self.name),
                expected="C4, D4 or another C<n>, such as C8",
                fix="D4 adds mirror images to C4.",
            )

    @property
    def order(self) -> int:
        """Of its rotations."""
        return int(self.name[1:])

    @property
    def step(self) -> float:
        return 2 * pi / self.order

    @property
    def generators(self) -> int:
        """How many generate it: a turn, and a mirror image."""
        return 2 if self.name == "D4" else 1

    def elements(self) -> tuple[Element, ...]:
        """All but the identity; turns by more than π are the negative ones."""
        angles = [self.step * (n if 2 * n <= self.order else n - self.order) for n in range(self.order)]
        mirrored = (False, True) if self.name == "D4" else (False,)
        return tuple(Element(a, m) for m, a in itertools.product(mirrored, angles) if a or m)

    def differences(self) -> Iterator[tuple[Element, float]]:
        """Generators g with a factor f, of which f·(ρ(g) − 1) is the finite difference that stands for dρ: divided by
        the step (a mirror's is π, half of its period), and by √(their number), as all of a class stand for one."""
        yield from ((Element(sign * self.step), 0.5**0.5 / self.step) for sign in (1, -1))
        if self.name == "D4":
            yield from ((element, 0.5 / pi) for element in self.elements() if element.mirrored)


@dataclass(frozen=True)
class Space:
    """Signals of one field on a `grid` × `grid` square: what a patch of a map is, or (grid 1) one of its positions."""

    field: str = "scalar"
    grid: int = 1

    @property
    def size(self) -> int:
        return FIELDS[self.field] * self.grid**2

    def action(self, element: Element) -> np.ndarray:
        """ρ(element), float64 [size, size], on signals laid out as [component, row, column]."""
        return np.kron(_on_field(self.field, element), _on_grid(self.grid, element))

    def exact(self, group: Group) -> bool:
        """Whether the group's action on it is one, and keeps norms; where it interpolates, it only nearly does."""
        return self.grid == 1 or group.order in (2, 4)


def _on_field(field: str, element: Element) -> np.ndarray:
    if field == "scalar":
        return np.eye(1)
    c, s = cos(element.angle), sin(element.angle)
    return np.array([[c, s], [-s, c]]) @ np.diag([-1.0 if element.mirrored else 1.0, 1.0])


def _on_grid(size: int, element: Element) -> np.ndarray:
    index = np.arange(size**2).reshape(size, size)
    mirrored = np.eye(size**2)[(np.fliplr(index) if element.mirrored else index).ravel()]
    quarters = element.angle / (pi / 2)
    if abs(quarters - round(quarters)) < 1e-9:
        return np.eye(size**2)[np.rot90(index, round(quarters)).ravel()] @ mirrored
    return _bilinear(size, element.angle) @ mirrored


def _bilinear(size: int, angle: float) -> np.ndarray:
    """Each position reads, bilinearly, where the turn brings it from; beyond the grid there are zeros."""
    center = (size - 1) / 2
    y, x = (np.indices((size, size)).reshape(2, -1) - center).tolist()
    matrix = np.zeros((size**2, size**2))
    for row, (py, px) in enumerate(zip(y, x, strict=True)):
        fx, fy = px * cos(angle) - py * sin(angle) + center, px * sin(angle) + py * cos(angle) + center
        left, top = int(np.floor(fx + 1e-9)), int(np.floor(fy + 1e-9))
        for dy, dx in itertools.product((0, 1), (0, 1)):
            share = (1 - abs(fx - left - dx)) * (1 - abs(fy - top - dy))
            if share > 1e-9 and 0 <= left + dx < size and 0 <= top + dy < size:
                matrix[row, (top + dy) * size + left + dx] = share
    return matrix
