"""What every data spec opens: a sequence of named images with their labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..runtime.errors import InputError


@dataclass(frozen=True)
class Sample:
    """One image as the program's input, float32 [1, C, H, W] ([1, H, W, C] for layout "nhwc")."""

    name: str
    image: np.ndarray
    label: Any = None


@dataclass(frozen=True)
class Dataset:
    """Images in a fixed order, read anew by each iteration so that none but the current one is held.

    Iterating gives (image float32 [1, C, H, W], label or None); `samples` gives them with their names.
    `count` is None where only reading tells (module:function). `fps`: of a video that says it. `notes`: what reading
    found that the user should know, such as a truncated video.
    """

    spec: str
    count: int | None
    open: Callable[[], Iterator[Sample]]
    fps: float | None = None
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[np.ndarray, Any]]:
        return ((sample.image, sample.label) for sample in self.samples())

    def samples(self, limit: int | None = None) -> Iterator[Sample]:
        """Raises InputError when there is none at all."""
        number = -1
        for number, sample in enumerate(itertools.islice(self.open(), limit)):  # noqa: B007
            yield sample
        if number < 0:
            raise InputError(
                f"data {self.spec}", got="no image", expected="at least one", fix="Check --data and --limit."
            )
