"""Pooling over a sliding window; pooling over the whole map is a barrier."""

from __future__ import annotations

from fractions import Fraction

from .convolution import spans, window_axes
from .field import Field
from .registry import Barrier, Local, NodeView, rule


@rule("MaxPool", "AveragePool", "LpPool")
def pool(view: NodeView) -> Local | Barrier:
    """`ceil_mode` and `count_include_pad` change only positions at the image's border, which a window keeps."""
    found = window_axes(view)
    if isinstance(found, Barrier):
        return found
    if any(view.node.output[1:]):
        return Barrier("its Indices count positions of the whole map")
    kernel = view.attrs["kernel_shape"]
    strides, dilations, pads = spans(view, len(kernel))
    if pads is None:
        return Barrier(f"auto_pad {view.attrs['auto_pad']} of a size that is not known")

    def along(axis: int) -> Field:
        i = axis - 2
        return Field(Fraction(strides[i]), -pads[i], (kernel[i] - 1) * dilations[i] - pads[i])

    def spare(axis: int) -> int:
        i = axis - 2
        up = strides[i] - 1 if view.attrs.get("ceil_mode") else 0
        return pads[i] + pads[i + len(kernel)] - (kernel[i] - 1) * dilations[i] - 1 + strides[i] + up

    y, x = found
    return Local({0: (along(y), along(x))}, found, (spare(y), spare(x)))


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(view: NodeView) -> Barrier:
    return Barrier("pools the whole map")
