"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .field import Field
from .registry import Barrier, Local, NodeView, rule


@rule("Conv")
def conv(view: NodeView) -> Local | Barrier:
    found = window_axes(view)
    if isinstance(found, Barrier):
        return found
    kernel = view.shape(1)[2:]
    strides, dilations, pads = spans(view, len(kernel))
    if pads is None:
        return Barrier(f"auto_pad {view.attrs['auto_pad']} of a size that is not known")

    def along(axis: int) -> Field:
        i = axis - 2
        return Field(Fraction(strides[i]), -pads[i], (kernel[i] - 1) * dilations[i] - pads[i])

    shrinks = loses_positions(kernel, dilations, pads)
    return Local({0: (along(found[0]), along(found[1]))}, found, shrinks)


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
        # Output o is there if (n − 1)·s + reach + more − pad − end ≥ o.
        beyond = pad + pads[axis - 2 + len(kernel)] - reach - more[axis - 2]
        high = max(high, *(-(-(o + beyond) // s) for o in range(s)))
        return Field(Fraction(1, s), low, max(low, high))

    both = zip(kernel, dilations, strides, pads[: len(kernel)], pads[len(kernel) :], more, strict=True)
    shrinks = any((k - 1) * d + 1 + m - begin - end < s for k, d, s, begin, end, m in both)
    return Local({0: (along(found[0]), along(found[1]))}, found, shrinks)


def loses_positions(kernel: Sequence[int], dilations: Sequence[int], pads: Sequence[int]) -> bool:
    """Whether the pads are too small for one output per stride of the input."""
    both = zip(kernel, dilations, pads[: len(kernel)], pads[len(kernel) :], strict=True)
    return any(begin + end < (k - 1) * d for k, d, begin, end in both)


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
