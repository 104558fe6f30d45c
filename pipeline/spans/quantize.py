"""QuantizeLinear and DequantizeLinear: what a tensor of bytes stands for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...runtime.native.plan import Format
from .registry import LoweredNode, Unsupported, rule

_MOST_SUMMED = 1 << 15  # of plan.cpp
_LOWEST = {"int8": -128, "uint8": 0}


@rule("QuantizeLinear")
def quantize(node: LoweredNode) -> None:
    node.apply(node.source(), format=_format(node, node.view.node.output[0]))


@rule("DequantizeLinear")
def dequantize(node: LoweredNode) -> None:
    source = node.source()
    if node.builder.formats[source] != _format(node, node.view.name(0)):
        raise Unsupported("has another scale than what it reads was made with")
    node.apply(source)


def _format(node: LoweredNode, name: str) -> Format:
    """The format of tensor `name`, which the node makes or reads."""
    dtype = node.view.probes.sample.dtypes[name]
    scale = node.constant(1)
    zero = node.constant(2) if node.view.name(2) else np.zeros(1)
    if node.view.name(2):  # onnxruntime hands out float8 as uint8
        dtype = zero.dtype.name
    if dtype not in _LOWEST or scale.size != 1 or zero.size != 1:
        raise Unsupported(f"quantizes to {dtype} by {scale.size} scales, other than to bytes by one")
    return Format(float(scale.item()), int(zero.item()) - _LOWEST[dtype])


class Quantized(NamedTuple):
    """What a convolution of bytes reads: a tensor of bytes, int8 weights, and the scale of each channel's sums."""

    source: int
    weights: np.ndarray
    scale: np.ndarray


def quantized_conv(node: LoweredNode) -> Quantized | None:
    """The operands of a convolution whose image and weights are both dequantized; None for any other."""
    image, weights = node.producer(0), node.producer(1)
    made_by = [found and found.view.node.op_type for found in (image, weights)]
    if image is None or weights is None or made_by != ["DequantizeLinear"] * 2:
        return None
    if image.view.name(0) not in node.builder.names:  # dequantized before the region
        return None
    source, values, scale = image.source(), weights.constant(0), weights.constant(1)
    format = node.builder.formats[source]
    zero = weights.constant(2) if weights.view.name(2) else np.zeros(1)
    axis = weights.view.axis(values.ndim, default=1)
    if format is None or values.dtype != np.int8 or np.any(zero) or values[0].size > _MOST_SUMMED:
        return None
    if scale.size != 1 and (axis != 0 or scale.size != len(values)):
        return None
    return Quantized(source, values, np.broadcast_to(scale.ravel() * np.float32(format.scale), len(values)))
