"""Data from arrays: an npz or npy file, or what a function of the user yields."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.manifest import Preprocess
from ..runtime.preprocess import preprocess as to_input
from .data_panoptic import refuse_letterbox
from .dataset import Dataset, Sample
from .names import import_function
from .panoptic import Panoptic

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
_NAMES = ("images", "labels", "things")


def open_arrays(path: Path, settings: Preprocess, limit: int | None) -> Dataset:
    try:
        arrays = _read(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"data {path}",
            got=f"a file that cannot be read ({error})",
            expected="arrays written by numpy.savez (no objects)",
            fix="Write it again: numpy.savez_compressed(path, images=…, labels=…).",
        ) from error
    images, labels, things = (arrays.get(name) for name in _NAMES)
    if images is None or images.ndim != 4:
        raise InputError(
            f"data {path}",
            got="no array `images`" if images is None else f"images of shape {list(images.shape)}",
            expected="images: uint8 [N, H, W, 3] or float32 [N, C, H, W]",
            fix="Write it again: numpy.savez_compressed(path, images=…, labels=…).",
        )
    if labels is not None and (labels.ndim == 0 or len(labels) != len(images)):
        raise InputError(
            f"data {path}",
            got=f"{labels.shape[0] if labels.ndim else 1} labels for {len(images)} images",
            expected="one label an image",
            fix="Write `images` and `labels` of equal length.",
        )

    if things is not None:
        _check_panoptic(path, labels, things)
        refuse_letterbox(str(path), settings)

    def samples() -> Iterator[Sample]:
        for number, image in enumerate(images[:limit]):
            name, label = f"{path.name}[{number}]", None if labels is None else labels[number]
            if things is not None and label is not None:
                label = Panoptic(label.astype(np.int64), frozenset(things.tolist()))
            yield Sample(name, _input_of(image, settings, name), label)

    return Dataset(str(path), len(images[:limit]), samples)


def _check_panoptic(path: Path, labels: np.ndarray | None, things: np.ndarray) -> None:
    maps = labels is not None and labels.ndim == 3 and labels.dtype.kind in "iu"
    if not maps or things.ndim != 1 or (things.size and things.dtype.kind not in "iu"):
        got = "no labels" if labels is None else f"labels {labels.dtype} {list(labels.shape)}"
        raise InputError(
            f"data {path}",
            got=f"{got} and things {things.dtype} {list(things.shape)}",
            expected="labels: int [N, H, W], category · 1000 + instance, and things: int [categories]",
            fix="Write it with foveate.pipeline.panoptic.save_panoptic.",
        )


def _read(path: Path) -> dict[str, np.ndarray]:
    """Those of `_NAMES` that there are. Of an npy only the images that are asked for are read."""
    if path.suffix == ".npy":
        return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in _NAMES if key in archive}


def open_function(spec: str, settings: Preprocess, limit: int | None) -> Dataset:
    function = import_function(spec, "data")

    def samples() -> Iterator[Sample]:
        items: Iterable[Any] = function()
        for number, item in enumerate(itertools.islice(items, limit)):
            name = f"{spec}[{number}]"
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise InputError(
                    name,
                    got=f"{type(item).__name__}",
                    expected="a pair (image, label)",
                    fix="Yield (image, None) for an image without a label.",
                )
            yield Sample(name, _input_of(np.asarray(item[0]), settings, name), item[1])

    return Dataset(spec, None, samples)


def _input_of(image: np.ndarray, settings: Preprocess, name: str) -> np.ndarray:
    """uint8 [H, W, 3] through `settings`; float32 [C, H, W] or [1, C, H, W] as it is."""
    if image.dtype == np.uint8 and image.ndim == 3:
        return to_input(image, settings)
    if image.dtype == np.float32 and image.ndim == 3:
        return image[None]
    if image.dtype == np.float32 and image.ndim == 4 and len(image) == 1:
        return image
    raise InputError(
        f"image {name}",
        got=f"{image.dtype} {list(image.shape)}",
        expected="uint8 [H, W, 3] (to preprocess) or float32 [C, H, W] (preprocessed)",
        fix="Convert it.",
    )
