"""Data from image files: one, a folder of them, or class folders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError, MissingExtraError
from ..runtime.manifest import Preprocess
from ..runtime.preprocess import preprocess as to_input
from .dataset import Dataset, Sample

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def open_folder(path: Path, settings: Preprocess, limit: int | None, classes: tuple[str, ...]) -> Dataset:
    images = _images_in(path)
    folders = {p.name: found for p in sorted(path.iterdir()) if p.is_dir() and (found := _images_in(p))}
    if images and folders:
        raise InputError(
            f"data {path}",
            got=f"{len(images)} image(s) and the class folders {', '.join(folders)}",
            expected="either images, or one subfolder a class",
            fix="Move the images into class folders, or the subfolders elsewhere.",
        )
    if images:
        return open_files(str(path), [(image, None) for image in images], settings, limit)
    if not folders:
        raise InputError(
            f"data {path}",
            got="an empty folder (no image in it or in its subfolders)",
            expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
            fix="Check the path given as --data.",
        )
    fix = "Rename the folders, or remove `labels` from the bundle to number the folders by name."
    index = class_index(f"class folders of {path}", sorted(folders), classes, fix)
    turns = itertools.zip_longest(
        *([(image, index[name]) for image in found] for name, found in folders.items())
    )
    labelled = [pair for turn in turns for pair in turn if pair is not None]
    return open_files(str(path), labelled, settings, limit)


def open_files(spec: str, files: list[tuple[Path, Any]], settings: Preprocess, limit: int | None) -> Dataset:
    kept = files[:limit]

    def samples() -> Iterator[Sample]:
        for path, label in kept:
            yield Sample(str(path), to_input(read_image(path), settings), label)

    return Dataset(spec, len(kept), samples)


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] RGB, upright by its EXIF orientation. Raises InputError (names the file), MissingExtraError."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("PIL", "report", f"reading the image file {path}") from error
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"image {path}",
            got=f"a file that cannot be read ({error})",
            expected="an image file",
            fix="Replace or remove it.",
        ) from error


def class_index(what: str, names: Sequence[str], classes: Sequence[str], fix: str) -> dict[str, int]:
    """The number of each name among the program's `classes`; without these, of its place among `names`. Raises
    InputError that names `what` and tells the `fix` where the program has no label for one."""
    unknown = sorted(set(names) - set(classes)) if classes else []
    if unknown:
        raise InputError(
            what,
            got=f"{len(unknown)} that the program has no label for ({', '.join(unknown[:5])})",
            expected=f"names among its {len(classes)} labels ({', '.join(classes[:5])}, …)",
            fix=fix,
        )
    return {name: number for number, name in enumerate(classes or names)}


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
