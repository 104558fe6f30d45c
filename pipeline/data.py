"""Data: one spec string opens images, with or without labels, for every command (`--data`).

| spec | images | labels |
|---|---|---|
| image file | one | none |
| image folder | its image files, by name | none |
| class folders | image files of each subfolder, by name | int: the subfolder's place by name, or in `classes` |
| video file | its frames, by PyAV | none |
| `file.npz` | `images`: uint8 [N, H, W, 3] or float32 [N, C, H, W] | `labels` (optional): [N] or [N, H, W] |
| `file.npz` with `things` | the same | Panoptic: a map of `labels`, and which categories are things |
| folder with `panoptic.json` | COCO's panoptic format, see `data_panoptic` | Panoptic |
| `file.npy` | the same array alone | none |
| `module:function` | it yields (image, label): uint8 [H, W, 3] or float32 [C, H, W] | as yielded, None: none |

uint8 images are preprocessed, float32 ones are taken as they are. What a label must be is the metric's matter, see
`metrics`. docs/data.md says the same for users.
"""

from __future__ import annotations

from pathlib import Path

from ..runtime.errors import InputError
from ..runtime.manifest import Preprocess
from .data_arrays import ARRAY_SUFFIXES, open_arrays, open_function
from .data_files import IMAGE_SUFFIXES, open_files, open_folder
from .data_panoptic import PANOPTIC, open_panoptic
from .data_video import VIDEO_SUFFIXES, open_video
from .dataset import Dataset, Sample

__all__ = ["IMAGE_SUFFIXES", "Dataset", "Sample", "open_data"]


def open_data(
    spec: str | Path,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    classes: tuple[str, ...] = (),
) -> Dataset:
    """`spec` is a row of this module's table; uint8 images go through `preprocess` (default: `Preprocess()`).

    `limit` keeps the first images only (in class folders: taken from all classes in turn). `classes` are the
    program's label names, which class folders and COCO's categories are matched with. Raises InputError.
    """
    text, settings = str(spec), preprocess or Preprocess()
    if limit is not None and limit < 1:
        raise InputError(f"data {text}", got=f"limit {limit}", expected="a limit ≥ 1", fix="Correct --limit.")
    path = Path(text)
    if (path / PANOPTIC).is_file():
        return open_panoptic(path, settings, limit, classes)
    if path.is_dir():
        return open_folder(path, settings, limit, classes)
    if path.suffix in ARRAY_SUFFIXES and path.is_file():
        return open_arrays(path, settings, limit)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return open_video(path, settings, limit)
    if path.is_file():
        return open_files(text, [(path, None)], settings, limit)
    if ":" in text and path.suffix not in ARRAY_SUFFIXES:
        return open_function(text, settings, limit)
    raise InputError(
        f"data {text}",
        got="no such file or folder",
        expected="an image folder, class folders, a video, a .npz or .npy file, or module:function",
        fix="Check the path.",
    )
