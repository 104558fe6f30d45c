"""The truth of an image whose pixels all belong to a segment: one map of categories and instances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import replacing

INSTANCES = 1000  # identities to a category, as in Cityscapes


@dataclass(frozen=True, eq=False)
class Panoptic:
    """ids: int32 or int64 [H, W], category · 1000 + instance; negative where nothing is known. The categories are the
    network's classes, from 0. `things` are those that are counted: their instances go from 1, and 0 marks a crowd, in
    which they are not told apart. The other categories are stuff, one segment an image. Raises InputError for an array
    that is no map."""

    ids: np.ndarray
    things: frozenset[int]

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.dtype not in (np.int32, np.int64) or not self.ids.size:
            raise InputError(
                "panoptic label",
                got=f"{self.ids.dtype} {list(self.ids.shape)}",
                expected="int32 or int64 [H, W], category · 1000 + instance",
                fix="See docs/data.md#panoptic-labels.",
            )

    @property
    def categories(self) -> np.ndarray:
        """int [H, W]; negative where nothing is known."""
        return self.ids // INSTANCES

    def merged(self) -> np.ndarray:
        """`ids` with one segment for each kind of stuff."""
        return np.where(np.isin(self.categories, list(self.things)), self.ids, self.categories * INSTANCES)

    def is_crowd(self, ids: np.ndarray) -> np.ndarray:
        """bool, of each id."""
        return np.isin(ids // INSTANCES, list(self.things)) & (ids % INSTANCES == 0)


def save_panoptic(path: str | Path, images: np.ndarray, labels: np.ndarray, things: Iterable[int]) -> None:
    """An npz that `--data` reads: images uint8 [N, H, W, 3], labels int [N, H, W] with what `Panoptic.ids` holds, and
    the categories that are things. Written whole or not at all. Raises InputError for arrays that do not fit."""
    if images.ndim != 4 or labels.shape != images.shape[:3] or labels.dtype.kind not in "iu":
        raise InputError(
            f"panoptic data {path}",
            got=f"images {list(images.shape)}, labels {labels.dtype} {list(labels.shape)}",
            expected="images [N, H, W, 3] and as many int labels [N, H, W]",
            fix="Stack images of one size; for several sizes, write a folder in COCO's panoptic format.",
        )
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels, things=np.array(sorted(things), np.int64))
