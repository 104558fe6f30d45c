"""Conv and ConvTranspose."""

from __future__ import annotations

import dataclasses

from ...runtime.native.plan import Conv, ConvTranspose, Window
from ..analyze.convolution import spans
from ..graph import op_key
from .positions import zero_pads
from .registry import LoweredNode, Unsupported, rule


@rule("Conv", "ConvTranspose")
def conv(node: LoweredNode) -> None:
    view = node.view
    weights = node.constant(1)
    if weights.ndim != 4:
        raise Unsupported("has a kernel that is not two-dimensional")
    bias = node.builder.array(node.constant(2)) if view.name(2) else None
    source = node.source()
    window = sliding_window(node, weights.shape[2:])
    groups = view.attrs.get("group", 1)
    if view.node.op_type == "ConvTranspose":
        more = _pair(view.attrs.get("output_padding", [0, 0]))
        array = node.builder.array(weights)
        node.builder.ops.append(ConvTranspose(source, node.target(), window, more, groups, array, bias))
        return
    source, window = _with_pad(node, source, window)
    node.builder.ops.append(Conv(source, node.target(), window, groups, node.builder.array(weights), bias))


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
