"""Pictures of what was computed: of what masks kept, and of what changed in a video."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from ..runtime.errors import MissingExtraError
from ..runtime.manifest import Preprocess

WIDTH = 320  # px
_DIM = 0.22  # of the brightness of what was dropped
_EDGE = (63, 193, 176)  # the colour of the border between kept and dropped
_TINT = 0.35  # share of that colour in what a video's frame changed


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


def _outlined(picture: np.ndarray, active: np.ndarray) -> np.ndarray:
    edge = np.zeros_like(active)
    edge[1:] |= active[1:] != active[:-1]
    edge[:, 1:] |= active[:, 1:] != active[:, :-1]
    picture[edge] = _EDGE
    return picture
