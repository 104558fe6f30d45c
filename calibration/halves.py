"""Images that choose, and images that had no part in it and confirm: a half of the data each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..pipeline.data import Dataset, Sample
from ..runtime.errors import InputError


@dataclass(frozen=True)
class Half:
    """Every second of the images, about: those of these places. Each call reads them anew."""

    data: Dataset
    limit: int | None
    places: frozenset[int]

    def __call__(self) -> Iterator[Sample]:
        every = enumerate(self.data.samples(self.limit))
        return (sample for place, sample in every if place in self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Halves:
    """`choosing` has one image more where their number is odd."""

    choosing: Half
    confirming: Half
    seed: int


def halves(data: Dataset, limit: int | None, seed: int, least: int) -> Halves:
    """The first `limit` images, dealt by `seed`. Raises InputError for fewer images than `least`."""
    count = data.count if data.count is not None else sum(1 for _ in data.samples(limit))
    count = min(count, limit or count)
    if count < least:
        raise InputError(
            f"data {data.spec}",
            got=f"{count} images",
            expected=f"at least {least}: one half of them chooses, the other confirms",
            fix="Give more; a hundred or more say something.",
        )
    dealt = np.random.default_rng(seed).permutation(count).tolist()
    middle = (count + 1) // 2
    first, second = (Half(data, limit, frozenset(half)) for half in (dealt[:middle], dealt[middle:]))
    return Halves(first, second, seed)
