"""Operators that make integers of floats by a scale, and floats of them again."""

from __future__ import annotations

import torch
from torch import Tensor

from .protos import TYPES
from .registry import Attributes, operator, refused


@operator("QuantizeLinear")
def quantize(attributes: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """round(x / scale) + zero, halves to even, as the nearest number that the type of `zero` has."""
    kind = attributes.get("output_dtype", 0)
    dtype = zero.dtype if zero is not None else TYPES[kind] if kind else torch.uint8
    if dtype.is_floating_point:
        raise refused("QuantizeLinear", str(dtype), "an integer type")
    info = torch.iinfo(dtype)
    steps = torch.round(x / _along(attributes, scale, x))
    if zero is not None:
        steps = steps + _along(attributes, zero, x).to(steps.dtype)
    return steps.clamp(info.min, info.max).to(dtype)


@operator("DequantizeLinear")
def dequantize(attributes: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero) * scale."""
    steps = x.to(torch.int32)
    if zero is not None:
        steps = steps - _along(attributes, zero, x).to(torch.int32)
    return steps.to(scale.dtype) * _along(attributes, scale, x)


def _along(attributes: Attributes, values: Tensor, x: Tensor) -> Tensor:
    """One for all of x, or one for each index of an axis of it."""
    if values.numel() == 1:
        return values.reshape(())
    if values.ndim != 1 or attributes.get("block_size", 0):
        raise refused(
            "Q/DQ", f"scales {list(values.shape)} of blocks", "one scale, or one for each index of an axis"
        )
    shape = [1] * x.ndim
    shape[attributes.get("axis", 1)] = -1
    return values.reshape(shape)
