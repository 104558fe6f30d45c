"""Pooling over a sliding window; pooling over the whole map is a barrier."""

from __future__ import annotations

from fractions import Fraction

from .convolution import loses_positions, spans, window_axes
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

    shrinks = loses_positions(kernel, dilations, pads)
    return Local({0: (along(found[0]), along(found[1]))}, found, shrinks)


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(view: NodeView) -> Barrier:
    return Barrier("pools the whole map")
