"""Pooling over a sliding window; pooling over the whole map is a barrier."""

from __future__ import annotations

from .convolution import sliding_window
from .registry import Barrier, Local, NodeView, rule


@rule("MaxPool", "AveragePool", "LpPool")
def pool(view: NodeView) -> Local | Barrier:
    """`ceil_mode` and `count_include_pad` change only positions at the image's border, which a window keeps."""
    if any(view.node.output[1:]):
        return Barrier("its Indices count positions of the whole map")
    return sliding_window(view, lambda: view.attrs["kernel_shape"])


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(view: NodeView) -> Barrier:
    return Barrier("pools the whole map")
