"""Operators that move elements, and those that make what tells them where."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import Attributes, operator, refused


@operator("Reshape", host=[1])
def reshape(attributes: Attributes, x: Tensor, shape: list[int]) -> Tensor:
    keeps = not attributes.get("allowzero", 0)
    # A symbol is no zero, and is not asked.
    return x.reshape(
        [x.shape[i] if keeps and isinstance(n, int) and n == 0 else n for i, n in enumerate(shape)]
    )


@operator("Flatten")
def flatten(attributes: Attributes, x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[: attributes.get("axis", 1)]), -1)


@operator("Transpose")
def transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(range(x.ndim))[::-1]))


@operator("Squeeze", host=[1])
def squeeze(attributes: Attributes, x: Tensor, axes: list[int] | None = None) -> Tensor:
    axes = axes if axes is not None else attributes.get("axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze", host=[1])
def unsqueeze(attributes: Attributes, x: Tensor, axes: list[int] | None = None) -> Tensor:
    axes = attributes["axes"] if axes is None else axes
    assert axes is not None
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", host=[1])
def expand(attributes: Attributes, x: Tensor, shape: list[int]) -> Tensor:
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(shape)))


@operator("Tile", host=[1])
def tile(attributes: Attributes, x: Tensor, repeats: list[int]) -> Tensor:
    return x.tile(repeats)


@operator("Concat")
def concat(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, attributes["axis"])


@operator("Split", host=[1])
def split(attributes: Attributes, x: Tensor, sizes: list[int] | None = None) -> tuple[Tensor, ...]:
    axis, sizes = attributes.get("axis", 0), sizes if sizes is not None else attributes.get("split")
    if sizes is not None:
        return x.split(sizes, axis)
    count = attributes["num_outputs"]
    return x.split(-(-x.shape[axis] // count), axis)


@operator("Slice", host=[1, 2, 3, 4])
def slice_(
    attributes: Attributes,
    x: Tensor,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Tensor:
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        if step < 0:  # forwards through the flipped, where place i is -1 - i
            x, start, end, step = x.flip(axis), -1 - start, -1 - end, -step
        places: list[Any] = [slice(None)] * x.ndim
        # Exporters write the largest number there is for "to the end".
        places[axis] = slice(start, None if isinstance(end, int) and end >= 2**31 - 1 else end, step)
        x = x[tuple(places)]
    return x


@operator("Gather")
def gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.ndim
    n = x.shape[axis]
    flat = torch.where(indices < 0, indices + n, indices).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


@operator("GatherND")
def gather_nd(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if attributes.get("batch_dims", 0):
        raise refused("GatherND", "batch_dims", "none")
    return x[indices.unbind(-1)]


@operator("ScatterND")
def scatter_nd(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    _no_reduction("ScatterND", attributes)
    return x.index_put(indices.unbind(-1), updates)


@operator("ScatterElements")
def scatter_elements(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    _no_reduction("ScatterElements", attributes)
    axis = attributes.get("axis", 0)
    return x.scatter(axis, torch.where(indices < 0, indices + x.shape[axis], indices), updates)


def _no_reduction(name: str, attributes: Attributes) -> None:
    if (found := attributes.get("reduction", "none")) != "none":
        raise refused(name, f"reduction {found}", "none")


@operator("Pad", host=[1, 2, 3])
def pad(
    attributes: Attributes,
    x: Tensor,
    pads: list[int],
    value: Any = None,
    axes: list[int] | None = None,
) -> Tensor:
    axes = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    before, after = pads[: len(axes)], pads[len(axes) :]
    by_axis = dict(zip(axes, zip(before, after, strict=True), strict=True))
    mode = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}
    kind = mode[attributes.get("mode", "constant")]
    first = 0 if kind == "constant" else 2  # torch pads the inner axes alone, but by constants
    flat = [n for axis in range(x.ndim - 1, first - 1, -1) for n in by_axis.get(axis, (0, 0))]
    filled = {} if kind != "constant" else {"value": 0 if value is None else _scalar(value)}
    return F.pad(x, flat, kind, **filled)


def _scalar(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


@operator("ConstantOfShape", host=[0])
def constant_of_shape(attributes: Attributes, shape: list[int]) -> Tensor:
    value = attributes.get("value")
    return torch.full(shape, 0.0) if value is None else value.reshape(()).expand(shape).clone()


@operator("Range", host=[0, 1, 2])
def range_(attributes: Attributes, start: Any, limit: Any, delta: Any) -> Tensor:
    return torch.arange(_scalar(start), _scalar(limit), _scalar(delta))


@operator("DepthToSpace")
def depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    side = attributes["blocksize"]
    if attributes.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, side)
    blocks = x.reshape(n, side, side, c // side**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // side**2, h * side, w * side)


@operator("SpaceToDepth")
def space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    side = attributes["blocksize"]
    blocks = x.reshape(n, c, h // side, side, w // side, side).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * side**2, h // side, w // side)


@operator("Trilu", host=[1])
def trilu(attributes: Attributes, x: Tensor, k: Any = 0) -> Tensor:
    return torch.triu(x, _scalar(k or 0)) if attributes.get("upper", 1) else torch.tril(x, _scalar(k or 0))
