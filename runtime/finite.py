"""Values that are NaN or infinite, found at the price of one sum."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def not_finite(batch: np.ndarray) -> Iterator[tuple[int, int]]:
    """The images of a batch [N, …] that hold NaN or infinity, each with the number of such values. Both survive a sum,
    so only a batch, and an image, with a suspect sum is looked at closely; a sum of finite values may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(np.add.reduce(batch, axis=None)):
            return
        sums = batch.reshape(len(batch), -1).sum(axis=1)
    for index in np.flatnonzero(~np.isfinite(sums)):
        bad = int(np.count_nonzero(~np.isfinite(batch[index])))
        if bad:
            yield int(index), bad
