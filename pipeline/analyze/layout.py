"""Ops that move axes or positions about: Transpose, DepthToSpace, Pad, Reshape, Squeeze."""

from __future__ import annotations

from fractions import Fraction

from .field import HERE, Field
from .registry import Barrier, Local, NodeView, rule


@rule("Transpose")
def transpose(view: NodeView) -> Local | Barrier:
    axes, rank = view.axes(), len(view.shape())
    perm = view.attrs.get("perm", list(range(rank))[::-1])
    if axes is None:
        return Barrier("reads no map")
    return Local({0: HERE}, (perm.index(axes[0]), perm.index(axes[1])))


@rule("DepthToSpace")
def depth_to_space(view: NodeView) -> Local | Barrier:
    block = Field(Fraction(1, view.attrs["blocksize"]), 0, 0)
    return _blocks(view, block)


@rule("SpaceToDepth")
def space_to_depth(view: NodeView) -> Local | Barrier:
    size = view.attrs["blocksize"]
    return _blocks(view, Field(Fraction(size), 0, size - 1), spare=size - 1)


def _blocks(view: NodeView, block: Field, spare: int = 0) -> Local | Barrier:
    if view.axes() != (2, 3):
        return Barrier("height and width are not its last axes")
    return Local({0: (block, block)}, (2, 3), (spare, spare))


@rule("Pad")
def pad(view: NodeView) -> Local | Barrier:
    """Where a border repeats or mirrors the map, positions of the pad read inside: the field takes them in."""
    axes, rank = view.axes(), len(view.shape())
    given = view.attrs.get("pads") if "pads" in view.attrs else view.value(1)
    mode = view.attrs.get("mode", "constant")
    if axes is None or given is None or mode == "wrap":
        return Barrier("wraps around the map" if mode == "wrap" else "its pads are not constant")
    over = view.value(3)
    order = list(range(rank)) if over is None else [int(a) % rank for a in over]
    count = len(order)
    by_axis = {a: (int(given[i]), int(given[i + count])) for i, a in enumerate(order)}

    def along(axis: int) -> Field:
        begin, end = by_axis.get(axis, (0, 0))
        low, high = -begin, -begin
        if mode != "constant" and (begin > 0 or end > 0):
            mirror = 2 if mode == "reflect" else 1
            low, high = -begin - mirror * max(end, 0), max(0, begin) * (mirror - 1)
        return Field(Fraction(1), low, max(low, high))

    spare = sum(by_axis.get(axes[0], (0, 0))), sum(by_axis.get(axes[1], (0, 0)))
    return Local({0: (along(axes[0]), along(axes[1]))}, axes, spare)


@rule("Reshape")
def reshape(view: NodeView) -> Local | Barrier:
    """Only where the target copies the map's two dims (0) from their own places."""
    axes, target = view.axes(), view.value(1)
    if axes is None or target is None:
        return Barrier("its target depends on the resolution")
    if view.attrs.get("allowzero") or any(a >= len(target) or target[a] != 0 for a in axes):
        return Barrier("mixes height and width with other axes")
    return Local({0: HERE}, axes)


@rule("Squeeze", "Unsqueeze")
def squeeze(view: NodeView) -> Local | Barrier:
    axes = view.axes()
    given = view.attrs.get("axes") if "axes" in view.attrs else view.value(1)
    if axes is None or given is None:
        return Barrier("its axes are not given")
    adds = view.node.op_type == "Unsqueeze"
    rank = len(view.shape()) + (len(given) if adds else 0)
    moved = sorted(int(a) % rank for a in given)
    if adds:
        kept = [a for a in range(rank) if a not in moved]
        return Local({0: HERE}, (kept[axes[0]], kept[axes[1]]))
    if set(moved) & set(axes):
        return Barrier("removes height or width")
    h, w = (a - sum(m < a for m in moved) for a in axes)
    return Local({0: HERE}, (h, w))


@rule("Expand")
def expand(view: NodeView) -> Local | Barrier:
    axes = view.axes()
    before, after = view.shape(), view.out_shape()
    more = len(after) - len(before)
    if axes is None or any(before[a] != after[a + more] for a in axes):
        return Barrier("spreads a value over the map")
    return Local({0: HERE}, (axes[0] + more, axes[1] + more))
