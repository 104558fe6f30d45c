"""Stock ONNX operators as functions of torch, for `torch_module`.

A value is a torch tensor, or a numpy array where it follows from constants and sizes alone: sizes may be
symbols of torch.export, so that shapes stay shapes. An operator gets its node's inputs (None: left out) and attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto

from ...runtime.errors import InternalError

Value = Any  # torch.Tensor | np.ndarray
Op = Callable[..., Value]

OPS: dict[str, Op] = {}
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.BOOL: torch.bool,
}


def op(*names: str) -> Callable[[Op], Op]:
    """Enters a function for these operators of the default domain."""

    def add(function: Op) -> Op:
        for name in names:
            if name in OPS:
                raise InternalError(f"two functions for {name}")
            OPS[name] = function
        return function

    return add


def tensor(value: Value) -> torch.Tensor:
    """A tensor of a value that may be known integers."""
    if isinstance(value, torch.Tensor):
        return value
    if value.dtype != object:
        return torch.from_numpy(np.ascontiguousarray(value))
    flat = [
        torch.as_tensor(n) if isinstance(n, int) else torch.scalar_tensor(n, dtype=torch.int64)
        for n in value.flat
    ]
    return torch.stack(flat).reshape(value.shape)


def ints(value: Value) -> list[Any]:
    """Of a list of sizes, axes or the like, which must be known."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return [int(n) if isinstance(n, np.integer) else n for n in value.reshape(-1).tolist()]


def known(*values: Value) -> bool:
    return not any(isinstance(value, torch.Tensor) for value in values)


def _unary(name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    op(name)(lambda x: function(tensor(x)))


# fmt: off
for _name, _function in {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Softplus": F.softplus,
    "Sqrt": torch.sqrt, "Tanh": torch.tanh, "HardSwish": F.hardswish, "Mish": F.mish,
}.items():
    _unary(_name, _function)
# fmt: on


def _binary(
    name: str, function: Callable[..., torch.Tensor], of_known: Callable[..., Any] | None = None
) -> None:
    def run(a: Value, b: Value) -> Value:
        if of_known is not None and known(a, b):
            found = of_known(a, b)
            return found if isinstance(found, np.ndarray | np.generic) else np.array(found, dtype=object)
        a, b = tensor(a), tensor(b)
        return function(a, b.to(a.device))

    op(name)(run)


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _divide_known(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sizes: towards zero is down."""
    return a / b if a.dtype.kind == "f" else a // b


# fmt: off
for _name, _both in {
    "Add": (torch.add, np.add), "Sub": (torch.sub, np.subtract), "Mul": (torch.mul, np.multiply),
    "Div": (_divide, _divide_known), "Mod": (torch.remainder, np.remainder), "Pow": (torch.pow, None),
    "Equal": (torch.eq, None), "Greater": (torch.gt, None), "GreaterOrEqual": (torch.ge, None),
    "Less": (torch.lt, None), "LessOrEqual": (torch.le, None), "And": (torch.logical_and, None),
    "Or": (torch.logical_or, None), "MatMul": (torch.matmul, None),
}.items():
    _binary(_name, *_both)
# fmt: on


@op("Identity", "Dropout")
def identity(x, *_, **__):
    return x


def _extreme(function):
    def run(*values):
        found = tensor(values[0])
        for value in values[1:]:
            found = function(found, tensor(value).to(found.device))
        return found

    return run


op("Max")(_extreme(torch.maximum))
op("Min")(_extreme(torch.minimum))


@op("Cast")
def cast(x, to, **_):
    if known(x) and to in (TensorProto.INT64, TensorProto.INT32) and x.dtype.kind in "iO":
        return x
    if known(x) and to == TensorProto.FLOAT and x.dtype.kind in "if":
        return x.astype(np.float32)
    return tensor(x).to(DTYPES[to])


@op("CastLike")
def cast_like(x, like, **_):
    return tensor(x).to(tensor(like).dtype)


@op("Where")
def where(condition, a, b):
    a, b = tensor(a), tensor(b)
    return torch.where(tensor(condition), a, b)


@op("Clip")
def clip(x, low=None, high=None):
    x = tensor(x)
    if low is not None:
        x = torch.maximum(x, tensor(low).to(x))
    return x if high is None else torch.minimum(x, tensor(high).to(x))


@op("LeakyRelu")
def leaky_relu(x, alpha=0.01):
    return F.leaky_relu(x, alpha)


@op("HardSigmoid")
def hard_sigmoid(x, alpha=0.2, beta=0.5):
    return torch.clamp(alpha * x + beta, 0, 1)


@op("Celu")
def celu(x, alpha=1.0):
    return F.celu(x, alpha)


@op("Selu")
def selu(x, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875):
    return gamma * F.elu(x, alpha)


@op("Elu")
def elu(x, alpha=1.0):
    return F.elu(x, alpha)


@op("Gelu")
def gelu(x, approximate="none"):
    return F.gelu(x, approximate=approximate)


@op("PRelu")
def prelu(x, slope):
    return torch.where(x < 0, x * slope, x)


# Sizes and layout


@op("Shape")
def shape(x, start=0, end=None):
    return np.array([*x.shape][start:end], dtype=object)


@op("Reshape")
def reshape(x, sizes, allowzero=0):
    wanted = ints(sizes)
    if known(x):
        return x.reshape(wanted)
    return x.reshape(
        [x.shape[i] if isinstance(n, int) and n == 0 and not allowzero else n for i, n in enumerate(wanted)]
    )


@op("Flatten")
def flatten(x, axis=1):
    return x.flatten(axis) if axis == 1 else x.reshape(-1, *x.shape[axis:])


@op("Transpose")
def transpose(x, perm=None):
    return x.permute(perm or [*range(x.ndim)][::-1])


@op("Squeeze")
def squeeze(x, axes=None):
    where = tuple(ints(axes)) if axes is not None else tuple(i for i, n in enumerate(x.shape) if n == 1)
    return np.squeeze(x, where) if known(x) else x.squeeze(where)


@op("Unsqueeze")
def unsqueeze(x, axes):
    where = sorted(n % (x.ndim + len(ints(axes))) for n in ints(axes))
    if known(x):
        return np.expand_dims(x, tuple(where))
    for axis in where:
        x = x.unsqueeze(axis)
    return x


@op("Concat")
def concat(*values, axis):
    if known(*values):
        return np.concatenate(values, axis)
    return torch.cat([tensor(value) for value in values], axis)


@op("Split")
def split(x, sizes=None, axis=0, num_outputs=None):
    parts = ints(sizes) if sizes is not None else -(-x.shape[axis] // (num_outputs or 1))
    if not known(x):
        return torch.split(x, parts, axis)
    ends = range(parts, x.shape[axis], parts) if isinstance(parts, int) else np.cumsum(parts)[:-1]
    return tuple(np.split(x, list(ends), axis))


@op("Slice")
def slice_(x, starts, ends, axes=None, steps=None):
    where = ints(axes) if axes is not None else range(len(ints(starts)))
    strides = ints(steps) if steps is not None else [1] * len(ints(starts))
    index = [slice(None)] * x.ndim
    for axis, low, high, step in zip(where, ints(starts), ints(ends), strides, strict=True):
        if step < 0:
            x = np.flip(x, axis) if known(x) else x.flip(axis)
            size, step = x.shape[axis], -step
            low, high = (
                size - 1 - min(low % size if low < 0 else low, size - 1),
                None if high < -size else size - 1 - high,
            )
        index[axis] = slice(low, None if isinstance(high, int) and high >= 2**31 - 1 else high, step)
    return x[tuple(index)]


@op("Gather")
def gather(x, at, axis=0):
    if known(x, at):
        return np.asarray(np.take(x, at.astype(np.int64), axis), dtype=object)
    x, at = tensor(x), tensor(at)
    at = torch.where(at < 0, at + x.shape[axis], at)
    axis %= x.ndim
    taken = x.index_select(axis, at.reshape(-1).to(torch.int64))
    return taken.reshape(*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])


@op("GatherElements")
def gather_elements(x, at, axis=0):
    return torch.gather(x, axis, at)


@op("Expand")
def expand(x, sizes):
    wanted = ints(sizes)
    if known(x) and all(type(n) is int for n in wanted):
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted)))
    x = tensor(x)
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(wanted)))


@op("Tile")
def tile(x, repeats):
    return tensor(x).repeat(ints(repeats))


@op("Constant")
def constant(value=None, value_float=None, value_int=None, value_floats=None, value_ints=None):
    if value is not None:
        return value
    if value_int is not None or value_ints is not None:
        return np.array(value_ints if value_int is None else value_int, np.int64)
    return np.array(value_floats if value_float is None else value_float, np.float32)


@op("ConstantOfShape")
def constant_of_shape(sizes, value=None):
    fill = np.zeros(1, np.float32) if value is None else value
    fill = tensor(fill)
    return torch.full(ints(sizes), fill.reshape(()).item(), dtype=fill.dtype)


@op("Range")
def range_(start, limit, delta):
    ends = [ints(v)[0] if known(v) else v.item() for v in (start, limit, delta)]
    kind = torch.int64 if known(start, limit, delta) else tensor(start).dtype
    return torch.arange(*ends, dtype=kind)


@op("Pad")
def pad(x, pads, value=None, axes=None, mode="constant"):
    amounts, where = ints(pads), ints(axes) if axes is not None else [*range(x.ndim)]
    by_axis = [(0, 0)] * x.ndim
    for place, axis in enumerate(where):
        by_axis[axis % x.ndim] = amounts[place], amounts[place + len(where)]
    flat = [amount for pair in by_axis[::-1] for amount in pair]
    if mode == "constant":
        return F.pad(x, flat, value=0.0 if value is None else float(value.reshape(-1)[0]))
    return F.pad(x, flat[: 2 * (x.ndim - 2)], mode={"edge": "replicate"}.get(mode, mode))


@op("SpaceToDepth")
def space_to_depth(x, blocksize):
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


@op("DepthToSpace")
def depth_to_space(x, blocksize, mode="DCR"):
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    parts = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)
