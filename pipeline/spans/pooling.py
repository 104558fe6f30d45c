"""Pooling over a sliding window."""

from __future__ import annotations

from ...runtime.native.plan import Pool
from .convolution import sliding_window
from .registry import LoweredNode, rule


@rule("MaxPool", "AveragePool")
def pool(node: LoweredNode) -> None:
    view = node.view
    window = sliding_window(node, tuple(view.attrs["kernel_shape"]))
    padded = "average_with_padding" if view.attrs.get("count_include_pad") else "average"
    how = "max" if view.node.op_type == "MaxPool" else padded
    ceil = bool(view.attrs.get("ceil_mode"))
    node.builder.ops.append(Pool(node.source(), node.target(), window, how, ceil))
