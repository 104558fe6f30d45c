"""Data from a folder in COCO's panoptic format: panoptic.json, images/, and the maps as PNG in panoptic/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.manifest import Preprocess
from ..runtime.preprocess import preprocess as to_input
from .data_files import class_index, read_image
from .dataset import Dataset, Sample
from .panoptic import INSTANCES, Panoptic

PANOPTIC = "panoptic.json"
_RENAME = "Rename the categories, or remove `labels` from the bundle to number them by their order."


def open_panoptic(path: Path, settings: Preprocess, limit: int | None, classes: tuple[str, ...]) -> Dataset:
    """A category is the network's class of that name, or without `classes` that of its place in the file."""
    fix = f"Write {PANOPTIC} as cocodataset.org describes it (format of panoptic annotations)."
    try:
        facts = json.loads((path / PANOPTIC).read_text(encoding="utf-8"))
        names = [category["name"] for category in facts["categories"]]
        index = class_index(f"categories of {path / PANOPTIC}", names, classes, _RENAME)
        number = {c["id"]: index[c["name"]] for c in facts["categories"]}
        things = frozenset(number[c["id"]] for c in facts["categories"] if c["isthing"])
        files = {image["id"]: path / "images" / image["file_name"] for image in facts["images"]}
        listed = [
            (files[a["image_id"]], path / "panoptic" / a["file_name"], _numbered(a["segments_info"], number))
            for a in facts["annotations"][:limit]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"data {path / PANOPTIC}",
            got=f"{type(error).__name__}: {error}",
            expected="COCO's panoptic format: images, annotations, categories",
            fix=fix,
        ) from error

    def samples() -> Iterator[Sample]:
        for image, truth, ids in listed:
            label = Panoptic(_ids(truth, ids), things)
            yield Sample(str(image), to_input(read_image(image), settings), label)

    refuse_letterbox(str(path), settings)
    return Dataset(str(path), len(listed), samples)


def refuse_letterbox(spec: str, settings: Preprocess) -> None:
    """A truth is compared at its own size with the whole answer, of which a letterbox would be a part."""
    if settings.letterbox and settings.size is not None:
        raise InputError(
            f"data {spec}",
            got="preprocess with letterbox",
            expected="images that fill the input, as their panoptic labels are compared at full size",
            fix="Pass --no-letterbox.",
        )


def _numbered(segments: list[Mapping[str, Any]], number: Mapping[int, int]) -> dict[int, int]:
    """From a segment's id in the PNG to its id here: instances of a category in their order, a crowd 0."""
    found: dict[int, int] = {}
    instances: dict[int, int] = {}
    for segment in segments:
        category = number[segment["category_id"]]
        if not segment.get("iscrowd"):
            instances[category] = instances.get(category, 0) + 1
        instance = 0 if segment.get("iscrowd") else instances[category]
        if instance >= INSTANCES:
            raise ValueError(f"{instance} segments of category {segment['category_id']} in one image")
        found[int(segment["id"])] = category * INSTANCES + instance
    return found


def _ids(path: Path, ids: Mapping[int, int]) -> np.ndarray:
    """int64 [H, W] of a PNG whose pixels hold a segment's id as R + 256 G + 256² B; −1 where it is none of them."""
    pixels = read_image(path).astype(np.int64) @ np.array([1, 256, 256**2])
    known, places = np.unique(pixels, return_inverse=True)
    return np.array([ids.get(int(value), -1) for value in known])[places].reshape(pixels.shape)
