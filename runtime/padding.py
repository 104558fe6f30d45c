"""Images of any size for a program that takes only some: padded with zeros on the right and at the bottom, and outputs
cropped to what the image itself would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .dims import parse_dim, read_symbols, resolve_dim
from .manifest import Manifest, Pair

Crops = dict[str, tuple[slice, ...]]  # by output


def map_axes(value: Any, manifest: Manifest) -> Pair | None:
    """The axes that hold height and width of an input; None where it is no image."""
    if len(value.shape) != 4:
        return None
    return (2, 3) if manifest.preprocess.layout == "nchw" else (1, 2)


def fitting_size(size: Sequence[int], manifest: Manifest) -> Pair:
    """The smallest height and width that hold these and that the program takes."""
    high, wide = (
        -(-max(n, least, 1) // multiple) * multiple
        for n, least, multiple in zip(size, manifest.min_size, manifest.multiple, strict=True)
    )
    return high, wide


def pad(feeds: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, np.ndarray]:
    """The same arrays where nothing is to be padded. What cannot be mended stays as it is, to be refused: empty axes,
    and those that the program fixes."""
    padded = dict(feeds)
    for spec in manifest.inputs:
        value = feeds[spec.name]
        axes = map_axes(value, manifest)
        if axes is None or value.size == 0 or value.ndim != len(spec.shape):
            continue
        size = fitting_size([value.shape[axis] for axis in axes], manifest)
        more = [(0, 0)] * 4
        for axis, n in zip(axes, size, strict=True):
            if isinstance(spec.shape[axis], str):
                more[axis] = (0, n - value.shape[axis])
        if any(map(sum, more)):
            padded[spec.name] = np.pad(value, more)
    return padded


def crops(
    manifest: Manifest, before: Mapping[str, Sequence[int]], after: Mapping[str, Sequence[int]]
) -> Crops:
    """What to keep of the outputs where inputs of the shapes `before` were padded to those `after`: of each axis whose
    size follows from one that grew, what follows from its own, rounded up. Other axes are kept."""
    own, grown = (read_symbols(manifest.inputs, shapes) for shapes in (before, after))
    found: Crops = {}
    for spec in manifest.outputs:
        kept = [slice(None)] * len(spec.shape)
        for axis, dim in enumerate(spec.shape):
            symbol = parse_dim(dim)[0] if isinstance(dim, str) else ""
            if own.get(symbol) != grown.get(symbol):
                kept[axis] = slice(resolve_dim(dim, own))
        if any(each.stop is not None for each in kept):
            found[spec.name] = tuple(kept)
    return found
