"""Conv and ConvTranspose."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...runtime.native.plan import Array, Conv, ConvInteger, ConvTranspose, Window
from ..analyze.convolution import spans
from ..graph import op_key
from .positions import zero_pads
from .quantize import quantized_conv
from .registry import LoweredNode, Unsupported, rule


@rule("Conv")
def conv(node: LoweredNode) -> None:
    weights, bias = _weights(node)
    window = sliding_window(node, weights.shape[2:])
    groups, builder = node.view.attrs.get("group", 1), node.builder
    quantized = quantized_conv(node)
    if quantized is not None:
        source, whole, scale = quantized
        arrays = builder.array(whole), builder.array(scale), bias
        builder.ops.append(ConvInteger(source, node.target(), window, groups, *arrays))
    else:
        source, window = _with_pad(node, node.source(), window)
        builder.ops.append(Conv(source, node.target(), window, groups, builder.array(weights), bias))


@rule("ConvTranspose")
def conv_transpose(node: LoweredNode) -> None:
    weights, bias = _weights(node)
    window = sliding_window(node, weights.shape[2:])
    more = _pair(node.view.attrs.get("output_padding", [0, 0]))
    groups, array = node.view.attrs.get("group", 1), node.builder.array(weights)
    node.builder.ops.append(ConvTranspose(node.source(), node.target(), window, more, groups, array, bias))


def _weights(node: LoweredNode) -> tuple[np.ndarray, Array | None]:
    weights = node.constant(1)
    if weights.ndim != 4:
        raise Unsupported("has a kernel that is not two-dimensional")
    return weights, node.builder.array(node.constant(2)) if node.view.name(2) else None


def _with_pad(node: LoweredNode, source: int, window: Window) -> tuple[int, Window]:
    """A Pad before the convolution becomes part of its window; where nothing else reads it, it is not computed."""
    maker = node.maker()
    pads = zero_pads(maker) if maker is not None and op_key(maker.view.node) == ("", "Pad") else None
    if maker is None or pads is None or min(*pads[0], *pads[1]) < 0:
        return source, window
    low, high = ((a[0] + b[0], a[1] + b[1]) for a, b in zip(pads, (window.low, window.high), strict=True))
    return maker.source(), dataclasses.replace(window, low=low, high=high)


def sliding_window(node: LoweredNode, kernel: tuple[int, ...]) -> Window:
    strides, dilations, pads = spans(node.view, len(kernel))
    if pads is None or min(pads) < 0:
        raise Unsupported(f"has pads {pads}")
    y, x = kernel
    return Window((y, x), _pair(strides), _pair(dilations), _pair(pads[:2]), _pair(pads[2:]))


def _pair(values: list[int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])
