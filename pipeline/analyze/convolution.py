"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from .field import Field
from .registry import Barrier, Local, NodeView, rule


@rule("Conv")
def conv(view: NodeView) -> Local | Barrier:
    return sliding_window(view, lambda: view.shape(1)[2:])


@rule("ConvTranspose")
def conv_transpose(view: NodeView) -> Local | Barrier:
    found = window_axes(view)
    if isinstance(found, Barrier):
        return found
    if view.attrs.get("output_shape"):
        return Barrier("its output_shape is fixed")
    kernel = view.shape(1)[2:]
    strides, dilations, pads = spans(view, len(kernel))
    if pads is None:
        return Barrier(f"auto_pad {view.attrs['auto_pad']}")

    more = view.attrs.get("output_padding", [0] * len(kernel))

    def along(axis: int) -> Field:
        # Input i adds to outputs o = i·s + k·d − pad, so o reads ⌈(o + pad − (K−1)·d) / s⌉ ≤ i ≤ ⌊(o + pad) / s⌋.
        s, reach, pad = strides[axis - 2], (kernel[axis - 2] - 1) * dilations[axis - 2], pads[axis - 2]
        low = min(-((reach - o - pad) // s) for o in range(s))
        high = max((o + pad) // s for o in range(s))
        return Field(Fraction(1, s), low, max(low, high))

    def spare(axis: int) -> int:
        i = axis - 2
        return (kernel[i] - 1) * dilations[i] + 1 + more[i] - pads[i] - pads[i + len(kernel)] - strides[i]

    y, x = found
    return Local({0: (along(y), along(x))}, found, (spare(y), spare(x)))


def sliding_window(view: NodeView, kernel_of: Callable[[], Sequence[int]]) -> Local | Barrier:
    """What a kernel that slides over the map reads. `kernel_of` gives its sides, once the op is known to be one."""
    found = window_axes(view)
    if isinstance(found, Barrier):
        return found
    kernel = kernel_of()
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


def window_axes(view: NodeView) -> tuple[int, int] | Barrier:
    """The axes of the map, if the op's two sliding axes are the map's."""
    if view.data != [0]:
        return Barrier("its weights are computed from the image")
    axes = view.axes()
    if axes is None or sorted(axes) != [2, 3] or len(view.shape()) != 4:
        return Barrier("height and width are not its two sliding axes")
    return axes


def spans(view: NodeView, rank: int) -> tuple[list[int], list[int], list[int] | None]:
    """Strides, dilations and pads (begins, then ends); None for pads that are not explicit."""
    strides = view.attrs.get("strides", [1] * rank)
    dilations = view.attrs.get("dilations", [1] * rank)
    mode = view.attrs.get("auto_pad", "NOTSET")
    pads = view.attrs.get("pads", [0] * 2 * rank) if mode == "NOTSET" else None
    return strides, dilations, [0] * 2 * rank if mode == "VALID" else pads
