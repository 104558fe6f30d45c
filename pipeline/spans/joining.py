"""Ops that put channels together or take them apart."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.native.plan import Copy, Part
from .registry import LoweredNode, Unsupported, rule


@rule("Concat")
def concat(node: LoweredNode) -> None:
    if node.view.axis(4, default=1) != 1:
        raise Unsupported("joins another axis than channels")
    parts, to = [], 0
    for i in range(len(node.view.node.input)):
        if i not in node.view.data:
            raise Unsupported("joins a constant")
        source = node.source(i)
        count = node.builder.channels[source]
        parts.append(Part(source, 0, count, to))
        to += count
    node.builder.ops.append(Copy(tuple(parts), node.target()))


def slice_channels(
    node: LoweredNode, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> None:
    source = node.source()
    if list(axes) != [1] or steps[0] != 1:
        raise Unsupported("takes other than consecutive channels")
    first, end, _ = slice(starts[0], ends[0]).indices(node.builder.channels[source])
    node.builder.ops.append(Copy((Part(source, first, end - first, 0),), node.target()))


@rule("Split")
def split(node: LoweredNode) -> None:
    if node.view.axis(4, default=0) != 1:
        raise Unsupported("splits another axis than channels")
    source, first = node.source(), 0
    for i in range(len(node.view.node.output)):
        target = node.target(i)
        count = node.builder.channels[target]
        node.builder.ops.append(Copy((Part(source, first, count, 0),), target))
        first += count
