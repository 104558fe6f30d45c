"""Data: one spec string opens images, with or without labels, for every command (`--data`).

| spec | images | labels |
|---|---|---|
| image file | one | none |
| image folder | its image files, by name | none |
| class folders | image files of each subfolder, by name | int: the subfolder's place by name, or in `classes` |
| `file.npz` | `images`: uint8 [N, H, W, 3] or float32 [N, C, H, W] | `labels` (optional): [N] or [N, H, W] |
| `module:function` | it yields (image, label): uint8 [H, W, 3] or float32 [C, H, W] | as yielded, None: none |

uint8 images are preprocessed, float32 ones are taken as they are. What a label must be is the metric's matter, see
`metrics`. docs/data.md says the same for users.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError, MissingExtraError
from ..runtime.manifest import Preprocess
from ..runtime.preprocess import preprocess as to_input
from .names import import_function

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


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
    `count` is None where only reading tells (module:function).
    """

    spec: str
    count: int | None
    open: Callable[[], Iterator[Sample]]

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


def open_data(
    spec: str | Path,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    classes: tuple[str, ...] = (),
) -> Dataset:
    """`spec` is a row of this module's table; uint8 images go through `preprocess` (default: `Preprocess()`).

    `limit` keeps the first images only (in class folders: taken from all classes in turn). `classes` are the
    program's label names, which class folders are matched with. Raises InputError.
    """
    text, settings = str(spec), preprocess or Preprocess()
    if limit is not None and limit < 1:
        raise InputError(f"data {text}", got=f"limit {limit}", expected="a limit ≥ 1", fix="Correct --limit.")
    path = Path(text)
    if path.is_dir():
        return _folder(path, settings, limit, classes)
    if path.suffix == ".npz" and path.is_file():
        return _npz(path, settings, limit)
    if path.is_file():
        return _files(text, [(path, None)], settings, limit)
    if ":" in text and path.suffix != ".npz":
        return _function(text, settings, limit)
    raise InputError(
        f"data {text}",
        got="no such file or folder",
        expected="an image folder, class folders, a .npz file or module:function",
        fix="Check the path given as --data.",
    )


def _folder(path: Path, settings: Preprocess, limit: int | None, classes: tuple[str, ...]) -> Dataset:
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
        return _files(str(path), [(image, None) for image in images], settings, limit)
    if not folders:
        raise InputError(
            f"data {path}",
            got="an empty folder (no image in it or in its subfolders)",
            expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
            fix="Check the path given as --data.",
        )
    index = _class_index(path, tuple(folders), classes)
    turns = itertools.zip_longest(
        *([(image, index[name]) for image in found] for name, found in folders.items())
    )
    labelled = [pair for turn in turns for pair in turn if pair is not None]
    return _files(str(path), labelled, settings, limit)


def _class_index(path: Path, folders: tuple[str, ...], classes: tuple[str, ...]) -> dict[str, int]:
    unknown = sorted(set(folders) - set(classes)) if classes else []
    if unknown:
        raise InputError(
            f"class folders of {path}",
            got=f"{len(unknown)} that the program has no label for ({', '.join(unknown[:5])})",
            expected=f"names among its {len(classes)} labels ({', '.join(classes[:5])}, …)",
            fix="Rename the folders, or remove `labels` from the bundle to number the folders by name.",
        )
    return {name: number for number, name in enumerate(classes or sorted(folders))}


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def _files(spec: str, files: list[tuple[Path, Any]], settings: Preprocess, limit: int | None) -> Dataset:
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


def _npz(path: Path, settings: Preprocess, limit: int | None) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("images", "labels") if key in archive}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"data {path}",
            got=f"a file that cannot be read ({error})",
            expected="arrays written by numpy.savez (no objects)",
            fix="Write it again: numpy.savez_compressed(path, images=…, labels=…).",
        ) from error
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or images.ndim != 4:
        raise InputError(
            f"data {path}",
            got="no array `images`" if images is None else f"images of shape {list(images.shape)}",
            expected="images: uint8 [N, H, W, 3] or float32 [N, C, H, W]",
            fix="Write it again: numpy.savez_compressed(path, images=…, labels=…).",
        )
    if labels is not None and len(labels) != len(images):
        raise InputError(
            f"data {path}",
            got=f"{len(labels)} labels for {len(images)} images",
            expected="one label an image",
            fix="Write `images` and `labels` of equal length.",
        )

    def samples() -> Iterator[Sample]:
        for number, image in enumerate(images[:limit]):
            name = f"{path.name}[{number}]"
            yield Sample(name, _input_of(image, settings, name), None if labels is None else labels[number])

    return Dataset(str(path), len(images[:limit]), samples)


def _function(spec: str, settings: Preprocess, limit: int | None) -> Dataset:
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
