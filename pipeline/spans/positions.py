"""Ops that move positions about: Pad, Slice of height and width, DepthToSpace. Each is a convolution by 1."""

from __future__ import annotations

import numpy as np

from ...runtime.manifest import Pair
from ...runtime.native.plan import Conv, ConvTranspose, Window
from ..analyze.channels import slice_operands
from .joining import slice_channels
from .registry import LoweredNode, Unsupported, rule


@rule("Pad")
def pad(node: LoweredNode) -> None:
    source, pads = node.source(), zero_pads(node)
    if pads is None:
        raise Unsupported("pads by other than zeros, or other axes than height and width")
    _take(node, source, Window((1, 1), low=pads[0], high=pads[1]))


def zero_pads(node: LoweredNode) -> tuple[Pair, Pair] | None:
    """Rows and columns of zeros that a Pad adds (or cuts, where negative) before and after; None if it does more."""
    view = node.view
    value = node.constant(2) if view.name(2) else np.zeros(())
    if view.attrs.get("mode", "constant") != "constant" or np.any(value):
        return None
    given = [int(n) for n in node.constant(1)]
    axes = [int(a) % 4 for a in node.constant(3)] if view.name(3) else list(range(4))
    low, high = (dict(zip(axes, part, strict=True)) for part in (given[: len(axes)], given[len(axes) :]))
    if any(sides.get(axis, 0) for sides in (low, high) for axis in (0, 1)):
        return None
    return (low.get(2, 0), low.get(3, 0)), (high.get(2, 0), high.get(3, 0))


@rule("Slice")
def crop(node: LoweredNode) -> None:
    """Of channels, or of height and width, whose ends are then counted from the map's."""
    starts, ends, axes, steps = slice_operands(node.view, 4)
    if starts is None or ends is None:
        raise Unsupported("has bounds that are not known")
    if 1 in axes:
        slice_channels(node, starts, ends, axes, steps)
        return
    taken = {
        a: (start, min(end, 0), step) for a, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    if 0 in taken:
        raise Unsupported("takes images of the batch")
    (top, bottom, down), (left, right, across) = (taken.get(axis, (0, 0, 1)) for axis in (2, 3))
    window = Window((1, 1), (down, across), low=(-top, -left), high=(bottom, right))
    _take(node, node.source(), window)


@rule("DepthToSpace")
def depth_to_space(node: LoweredNode) -> None:
    """Each channel of a block is one tap of a transposed convolution."""
    source, target = node.source(), node.target()
    side, out = node.view.attrs["blocksize"], node.builder.channels[target]
    taps = np.eye(side * side, dtype=np.float32).reshape(-1, 1, side, side)
    if node.view.attrs.get("mode", "DCR") == "CRD":
        groups, weights = out, np.tile(taps, (out, 1, 1, 1))
    else:
        groups, weights = 1, np.einsum("tyx,co->tcoyx", taps[:, 0], np.eye(out))
    array = node.builder.array(weights.reshape(-1, out // groups, side, side))
    window = Window((side, side), (side, side))
    node.builder.ops.append(ConvTranspose(source, target, window, (0, 0), groups, array, None))


def _take(node: LoweredNode, source: int, window: Window) -> None:
    count = node.builder.channels[source]
    ones = node.builder.array(np.ones((count, 1, 1, 1)))
    node.builder.ops.append(Conv(source, node.target(), window, count, ones, None))
