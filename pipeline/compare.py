"""Compare one answer with the dense reference's: decisions first, then values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NEAR = 1e-4  # of the range of what is decided by; reordered float32 sums move that by far less


@dataclass(frozen=True)
class Keep:
    """What the reference decides: a keep mask, or depths [N] (integers); and how far each is from being another one, as
    a share of the range of what it is decided by (None: unknown)."""

    keep: np.ndarray
    margin: np.ndarray | None = None


@dataclass(frozen=True)
class ImageCheck:
    """One image. `errors` by output; None where a decision differs, for then values are not comparable."""

    name: str
    positions: int
    flips: int  # positions where a decision differs
    near_flips: int  # those of them that were near to being so, or that follow from such a one
    errors: dict[str, float] | None

    @property
    def error(self) -> float:
        """The largest error of any output; NaN where values are not comparable."""
        return float("nan") if self.errors is None else max(self.errors.values(), default=0.0)


def compare(
    name: str,
    outputs: Mapping[str, np.ndarray],
    keeps: Sequence[np.ndarray],
    expected_outputs: Mapping[str, np.ndarray],
    expected_keeps: Sequence[Keep],
    near_by: float = NEAR,
) -> ImageCheck:
    """`keeps` and `expected_keeps` are the decisions in the program's order. A flip whose margin is at most `near_by`
    is near."""
    positions = flips = near = 0
    only_near = True
    for keep, expected in zip(keeps, expected_keeps, strict=True):
        positions += expected.keep.size
        different = _differences(keep, expected.keep)
        count = int(different.sum())
        if flips and only_near:  # a later decision sees features that the near flip has changed
            near += count
        elif count:
            close = 0 if expected.margin is None else int((different & (expected.margin <= near_by)).sum())
            near += close
            only_near = close == count
        flips += count
    errors = (
        None if flips else {key: relative_error(outputs.get(key), b) for key, b in expected_outputs.items()}
    )
    return ImageCheck(name, positions, flips, near, errors)


def relative_error(ours: np.ndarray | None, theirs: np.ndarray) -> float:
    """max|a − b| ÷ max|b|; infinite where the shape differs or one of the two alone is not finite."""
    if ours is None or ours.shape != theirs.shape:
        return float("inf")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(b[finite]).max(initial=0.0))
    return difference / scale if scale else (float("inf") if difference else 0.0)


def _differences(keep: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """bool, True where depths differ, or one is active and the other is not; everywhere where the shapes differ."""
    if keep.shape != expected.shape:
        return np.ones(expected.shape, bool)
    if expected.dtype.kind == "i":
        return keep != expected
    return (keep != 0) != (expected != 0)
