"""uint8 images to a program's input, with numpy alone: size, letterbox, colour order, scale, mean, std, layout."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from .errors import InputError
from .manifest import Pair, Preprocess

PAD = 114.0  # grey around a letterboxed image, on the scale of 0 … 255
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_COLORS = ("rgb", "bgr", "gray")


def preprocess(images: np.ndarray | Sequence[np.ndarray], settings: Preprocess) -> np.ndarray:
    """uint8 RGB [H, W, 3], gray [H, W] or [H, W, 1], a batch [N, H, W, C] or a sequence of images → float32
    [N, C, H', W'] ([N, H', W', C] for layout "nhwc").

    Images of a sequence may differ in size where the settings fix one. Raises InputError.
    """
    single = isinstance(images, np.ndarray) and images.ndim < 4
    listed = [images] if single else list(images)
    if not listed:
        raise InputError(
            "images", got="none", expected="at least one", fix="Do not call the model on an empty batch."
        )
    ready = [_one(np.asarray(image), index, settings) for index, image in enumerate(listed)]
    sizes = sorted({image.shape[:2] for image in ready})
    if len(sizes) > 1:
        raise InputError(
            "images of one batch",
            got=f"sizes {', '.join(f'{h}×{w}' for h, w in sizes)}",
            expected="one size",
            fix="model.map(images) takes any sizes, and answers image by image; or build the bundle with --size.",
        )
    return _normalise(ready, settings)


def _normalise(images: Sequence[np.ndarray], settings: Preprocess) -> np.ndarray:
    """(pixel · scale − mean) / std as one product and one sum, written in the wanted layout at once."""
    height, width, channels = images[0].shape
    mean, std = (np.array(v[:channels], np.float64) for v in (settings.mean, settings.std))
    factor, offset = (settings.scale / std).astype(np.float32), (-mean / std).astype(np.float32)
    planar = settings.layout == "nchw"
    batch = np.empty(
        (len(images), *((channels, height, width) if planar else (height, width, channels))), np.float32
    )
    if planar:
        factor, offset = factor[:, None, None], offset[:, None, None]
    for image, out in zip(images, batch, strict=True):
        np.multiply(image.transpose(2, 0, 1) if planar else image, factor, out=out)
        out += offset
    return batch


def _one(image: np.ndarray, index: int, settings: Preprocess) -> np.ndarray:
    """One image as float32 [H', W', C], of the wanted size and colours."""
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] not in (1, 3))
    ):
        raise InputError(
            f"image {index}",
            got=f"{image.dtype} {list(image.shape)}",
            expected="uint8 [H, W, 3] in RGB, or gray [H, W]",
            fix="Convert it (drop the alpha channel, scale 16 bits to 8), or pass float32 [N, C, H, W].",
        )
    if 0 in image.shape:
        raise InputError(
            f"image {index}", got=f"{list(image.shape)}", expected="pixels", fix="Check its source."
        )
    pixels = image.reshape(*image.shape[:2], -1).astype(np.float32)
    pixels = _color(pixels, settings.color)
    if settings.size is not None:
        pixels = letterbox(pixels, settings.size) if settings.letterbox else resize(pixels, settings.size)
    return pixels


def _color(pixels: np.ndarray, color: str) -> np.ndarray:
    if color not in _COLORS:
        raise InputError(
            "preprocess.color", got=repr(color), expected=f"one of {_COLORS}", fix="Build again."
        )
    if color == "gray":
        return pixels if pixels.shape[2] == 1 else (pixels @ _LUMA)[..., None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels if color == "rgb" else pixels[..., ::-1]


def letterbox(pixels: np.ndarray, size: Pair) -> np.ndarray:
    """Resizes [H, W, C] to fit into `size` with its aspect ratio kept, centred on grey."""
    height, width = pixels.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    out = np.full((*size, pixels.shape[2]), PAD, np.float32)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = resize(pixels, inner)
    return out


def resize(pixels: np.ndarray, size: Pair) -> np.ndarray:
    """Bilinear on half-pixel centres, float32 [H, W, C]; where it shrinks, the triangle is widened by the ratio, so
    that every source pixel counts (antialiasing, as Pillow's BILINEAR does)."""
    for axis in (0, 1):
        if pixels.shape[axis] != size[axis]:
            pixels = _resize_axis(pixels, axis, size[axis])
    return pixels


def _resize_axis(pixels: np.ndarray, axis: int, n: int) -> np.ndarray:
    taps, weights = _weights(pixels.shape[axis], n)
    shape = (n, 1, 1) if axis == 0 else (1, n, 1)
    out = pixels.take(taps[0], axis=axis) * weights[0].reshape(shape)
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        out += pixels.take(tap, axis=axis) * weight.reshape(shape)
    return out


@functools.lru_cache(maxsize=64)
def _weights(length: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights of each output position: int [taps, n] and float32 [taps, n]."""
    ratio = length / n
    reach = max(ratio, 1.0)  # half the triangle's base, in source pixels
    centers = (np.arange(n) + 0.5) * ratio
    first = np.floor(centers - reach).astype(np.intp)
    taps = first + np.arange(int(np.ceil(2 * reach)) + 1)[:, None]
    weights = np.clip(1 - np.abs(taps + 0.5 - centers) / reach, 0, None)
    weights[(taps < 0) | (taps >= length)] = 0
    weights /= weights.sum(axis=0)
    return np.clip(taps, 0, length - 1), weights.astype(np.float32)
