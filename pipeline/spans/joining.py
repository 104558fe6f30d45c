"""Ops that put channels together or take them apart."""

from __future__ import annotations

import numpy as np

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


@rule("Slice")
def slice_channels(node: LoweredNode) -> None:
    source = node.source()
    starts, ends = (node.constant(i).ravel() for i in (1, 2))
    axes = node.constant(3).ravel() if node.view.name(3) else np.arange(len(starts))
    steps = node.constant(4).ravel() if node.view.name(4) else np.ones(len(starts), np.int64)
    if [int(a) % 4 for a in axes] != [1] or int(steps[0]) != 1:
        raise Unsupported("takes other than consecutive channels")
    first, end, _ = slice(int(starts[0]), int(ends[0])).indices(node.builder.channels[source])
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
