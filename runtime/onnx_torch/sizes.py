"""Arithmetic of sizes: what programs do with shapes, on numpy arrays whose elements may be symbols of torch.export.

Of torch's tensors these would be unknown numbers. What is not here, or gives None, is computed by tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from .registry import Attributes

Array = np.ndarray


def shape(op: str, attributes: Attributes, value: Any) -> Any:
    """Of nodes Shape and Size: a list, or a number."""
    if op == "Size":
        return value.numel()
    return list(value.shape)[attributes.get("start", 0) : attributes.get("end")]


def _cast(attributes: Attributes, x: Array) -> Array | None:
    if x.dtype.kind in "iO" and attributes["to"] in (TensorProto.INT64, TensorProto.INT32):
        return x
    return x.astype(np.float32) if x.dtype.kind in "if" and attributes["to"] == TensorProto.FLOAT else None


def _expand(attributes: Attributes, x: Array, sizes: Array) -> Array | None:
    if not all(isinstance(n, int | np.integer) for n in sizes):
        return None
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(sizes)))


def _slice(
    attributes: Attributes,
    x: Array,
    starts: Array,
    ends: Array,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    places = [slice(None)] * x.ndim
    count = len(starts)
    steps = np.ones(count, np.int64) if steps is None else steps
    axes = np.arange(count) if axes is None else axes
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(places)]


def _split(attributes: Attributes, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    axis = attributes.get("axis", 0)
    if sizes is None:
        part = -(-x.shape[axis] // attributes["num_outputs"])
        return tuple(np.split(x, range(part, x.shape[axis], part), axis))
    return tuple(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def _reduce_prod(attributes: Attributes, x: Array, axes: Array | None = None) -> Array:
    return np.prod(
        x, axis=None if axes is None else tuple(axes), keepdims=bool(attributes.get("keepdims", 1))
    )


SIZES: dict[str, Callable[..., Any]] = {
    "Add": lambda _, x, y: x + y,
    "Sub": lambda _, x, y: x - y,
    "Mul": lambda _, x, y: x * y,
    "Div": lambda _, x, y: x / y if x.dtype.kind == "f" else x // y,  # of sizes, towards zero is down
    "Mod": lambda _, x, y: x % y,
    "Cast": _cast,
    "Concat": lambda attributes, *parts: np.concatenate(parts, attributes["axis"]),
    "Expand": _expand,
    "Gather": lambda attributes, x, at: np.take(x, at.astype(np.int64), attributes.get("axis", 0)),
    "Identity": lambda _, x: x,
    "ReduceProd": _reduce_prod,
    "Reshape": lambda _, x, shape: x.reshape(shape.astype(np.int64)),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": lambda _, x, axes=None: np.squeeze(x, None if axes is None else tuple(axes)),
    "Unsqueeze": lambda _, x, axes: np.expand_dims(x, tuple(axes)),
}
