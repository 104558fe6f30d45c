"""Pictures of what was computed: of what masks kept, of what changed in a video, of what was found in an image."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..runtime.errors import InputError, MissingExtraError
from ..runtime.manifest import Preprocess

WIDTH = 320  # px
_DIM = 0.22  # of the brightness of what was dropped
_EDGE = (63, 193, 176)  # the colour of the border between kept and dropped
_TINT = 0.35  # share of that colour in what a video's frame changed
_FOUND = 0.5  # share of a segment's colour in it
_GOLDEN = 0.618034  # steps of hue by which any number of colours lie far apart


def overlay(image: np.ndarray, keep: np.ndarray, settings: Preprocess) -> dict[str, str]:
    """`image` and `kept`. `image`: the program's input [1, C, H, W] (or nhwc by `settings`); keep [1, 1, h, w], 0
    where inactive, any size. Raises MissingExtraError without Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("PIL", "report", "pictures of the masks") from error
    picture = Image.fromarray(visible(image, settings))
    size = (WIDTH, max(1, round(WIDTH * picture.height / picture.width)))
    shown = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    small = Image.fromarray((keep[0, 0] != 0).astype(np.uint8) * 255)
    active = np.asarray(small.resize(size, Image.Resampling.NEAREST)) > 0
    return {
        "image": data_uri(Image.fromarray(shown)),
        "kept": data_uri(Image.fromarray(dimmed(shown, active))),
    }


def data_uri(picture: Any) -> str:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def visible(image: np.ndarray, settings: Preprocess) -> np.ndarray:
    """uint8 [H, W, 3]: `preprocess` undone as far as colours go."""
    hwc = image[0] if settings.layout == "nhwc" else image[0].transpose(1, 2, 0)
    channels = hwc.shape[-1]
    if channels <= len(settings.mean):
        mean, std = (np.asarray(v[:channels], np.float32) for v in (settings.mean, settings.std))
        hwc = hwc * std + mean
    values = hwc / settings.scale
    if settings.color == "bgr":
        values = values[..., ::-1]
    if channels not in (1, 3):
        values = values[..., :1]
    if not settings.scale or values.min() < -64 or values.max() > 319:  # not made by these settings: stretch
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / max(high - low, 1e-6))
    pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def dimmed(picture: np.ndarray, active: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: grey and dark where not `active` (bool [H, W]), with a line between."""
    grey = picture.mean(axis=2, keepdims=True) * _DIM
    out = np.where(active[..., None], picture, grey).astype(np.uint8)
    return _outlined(out, active)


def tinted(picture: np.ndarray, active: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: coloured where `active` (bool [H, W]), with a line around."""
    colour = (1 - _TINT) * picture + _TINT * np.array(_EDGE)
    return _outlined(np.where(active[..., None], colour, picture).astype(np.uint8), active)


def segmented(picture: np.ndarray, answer: Mapping[str, Any]) -> Any:
    """A Pillow image of a picture uint8 [H, W, 3] with the segments of its panoptic or instance answer
    (`runtime.segmentation`, with `target_sizes` the picture's size): each in a colour of its own, with its name.
    Raises InputError for an answer of another size, MissingExtraError without Pillow."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError("PIL", "report", "pictures of segments") from error
    ids = np.asarray(answer["segmentation"])
    if ids.shape != picture.shape[:2]:
        raise InputError(
            "picture of segments",
            got=f"a segmentation {list(ids.shape)} of a picture {list(picture.shape)}",
            expected="equal height and width",
            fix="Segment with target_sizes=[picture.shape[:2]], without binary maps or run lengths.",
        )
    out, names = picture.copy(), {}
    for info in answer["segments_info"]:
        where = ids == info["id"]
        if where.any():  # an instance may lie wholly under others
            colour = np.array(colorsys.hsv_to_rgb(info["id"] * _GOLDEN % 1, 0.85, 1)) * 255
            out[where] = (1 - _FOUND) * picture[where] + _FOUND * colour
            names[_inmost(where)] = str(info.get("label", info["label_id"]))
    drawn = Image.fromarray(_outlined(out, ids, (255, 255, 255)))
    pen = ImageDraw.Draw(drawn)
    for place, name in names.items():
        pen.text(place, name, fill="white", anchor="mm", stroke_width=1, stroke_fill="black")
    return drawn


def _inmost(where: np.ndarray) -> tuple[int, int]:
    """(x, y) of a pixel about as far from the border of a bool [H, W] as any: what is left after peeling it."""
    step = -(-max(where.shape) // 128)  # coarse is good enough, and quick
    if not where[::step, ::step].any():
        step = 1
    left = np.pad(where[::step, ::step], 1)
    peeled = left
    while peeled.any():
        left, peeled = peeled, peeled.copy()
        peeled[1:] &= left[:-1]
        peeled[:-1] &= left[1:]
        peeled[:, 1:] &= left[:, :-1]
        peeled[:, :-1] &= left[:, 1:]
    found = np.argwhere(left)
    row, column = found[len(found) // 2]
    return int(column - 1) * step, int(row - 1) * step


def _outlined(picture: np.ndarray, regions: np.ndarray, colour: tuple[int, int, int] = _EDGE) -> np.ndarray:
    edge = np.zeros(regions.shape, bool)
    edge[1:] |= regions[1:] != regions[:-1]
    edge[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    picture[edge] = colour
    return picture
