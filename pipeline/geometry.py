"""Geometry of a group of local nodes: its grid of cells, its halo, and what bounds its outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..runtime.manifest import Pair
from .analyze.analysis import Analysis, NodeInfo
from .terms import Terms, from_source, through

MAX_POSITIONS = 64  # a cell of more positions than this along an axis is no window worth having


@dataclass(frozen=True)
class Geometry:
    """See runtime/manifest.py. `positions` of every tensor of the group, inner ones too."""

    positions: dict[str, Pair]
    halo_low: Pair
    halo_high: Pair
    whole_cells: bool


def measure(nodes: Sequence[NodeInfo], outputs: Sequence[str]) -> Geometry | None:
    """The geometry of nodes in topological order; None if they cannot run on one window."""
    high, wide = _positions(nodes, 0), _positions(nodes, 1)
    if high is None or wide is None or not (_sizes_agree(nodes, 0) and _sizes_agree(nodes, 1)):
        return None
    y, x = _halo(nodes, outputs, high, 0), _halo(nodes, outputs, wide, 1)
    return Geometry(
        {name: (high[name], wide[name]) for name in high},
        (y[0], x[0]),
        (y[1], x[1]),
        any(node.whole_cells for node in nodes),
    )


def whole_cell(nodes: Sequence[NodeInfo]) -> dict[str, Pair] | None:
    """Positions a cell of every tensor, if whole cells of the inputs make whole cells of all others, and no more."""
    high, wide = _positions(nodes, 0), _positions(nodes, 1)
    for node in nodes:
        for fields in node.fields.values():
            if any(not 0 <= node.spare[i] < fields[i].stride.numerator for i in (0, 1)):
                return None
    return None if high is None or wide is None else {name: (high[name], wide[name]) for name in high}


def output_terms(
    nodes: Sequence[NodeInfo], analysis: Analysis, inputs: Sequence[str]
) -> dict[str, Terms | None]:
    """Terms of every tensor made by the nodes, back to mask tensors and to the group's own inputs."""
    known: dict[str, Terms | None] = {name: from_source(name) for name in inputs}
    for node in nodes:
        known.update(dict.fromkeys(node.outputs, through(node, analysis.masks, known)))
    return known


def _positions(nodes: Sequence[NodeInfo], axis: int) -> dict[str, int] | None:
    """Positions a cell of every tensor along one axis: the least whole numbers in the ratio of the strides."""
    edges: dict[str, list[tuple[str, int, int]]] = {}
    for node in nodes:
        for out in node.outputs:
            for name, fields in node.fields.items():
                num, den = fields[axis].stride.numerator, fields[axis].stride.denominator
                edges.setdefault(out, []).append((name, num, den))
                edges.setdefault(name, []).append((out, den, num))
    scale = _spread(edges, nodes[0].outputs[0])
    if scale is None or len(scale) < len(edges):  # strides that contradict, or parts without a common tensor
        return None
    whole = math.lcm(*(s.denominator for s in scale.values()))
    counts = {name: s.numerator * (whole // s.denominator) for name, s in scale.items()}
    common = math.gcd(*counts.values())
    counts = {name: n // common for name, n in counts.items()}
    return counts if max(counts.values()) <= MAX_POSITIONS else None


def _spread(edges: dict[str, list[tuple[str, int, int]]], start: str) -> dict[str, Fraction] | None:
    """Positions of every tensor that `start` is connected with, per position of `start`."""
    scale = {start: Fraction(1)}
    pending = [start]
    while pending:
        here = pending.pop()
        for other, num, den in edges[here]:
            found = scale[here] if num == den else scale[here] * num / den
            if other not in scale:
                scale[other] = found
                pending.append(other)
            elif scale[other] is not found and scale[other] != found:
                return None
    return scale


def _halo(nodes: Sequence[NodeInfo], outputs: Sequence[str], positions: dict[str, int], axis: int) -> Pair:
    """Cells needed below and above. Every tensor, inner ones too, must exist in the window where it is read."""
    need: dict[str, Pair] = dict.fromkeys(outputs, (0, 0))
    for node in reversed(nodes):
        below = max((need[o][0] for o in node.outputs if o in need), default=0)
        above = max((need[o][1] for o in node.outputs if o in need), default=0)
        for name, fields in node.fields.items():
            low, high = fields[axis].needs(below, above)
            old = need.get(name, (0, 0))
            need[name] = max(old[0], low), max(old[1], high)
    low = max(-(-n[0] // positions[name]) for name, n in need.items())
    high = max(-(-n[1] // positions[name]) for name, n in need.items())
    if any(f[axis].shrinks(node.spare[axis]) for node in nodes for f in node.fields.values()):
        # A window of 1 + high cells is enough for every node to have an output. So must be one that is clamped at the
        # map's end, where the last cell may be cut short.
        low = max(low, high + 1)
    return low, high


def _sizes_agree(nodes: Sequence[NodeInfo], axis: int) -> bool:
    """Whether operands that are combined are equally long on a window, too: `more` is by how many positions each
    tensor is longer than the window's cells, when all inputs of the group are cut to them."""
    more: dict[str, int] = {}
    for node in nodes:
        lengths: set[int] = set()
        for name, fields in node.fields.items():
            stride = fields[axis].stride
            grown = more.get(name, 0) * stride.denominator + node.spare[axis]
            lengths.add(grown // stride.numerator)
        if len(lengths) > 1:
            return False
        more.update(dict.fromkeys(node.outputs, lengths.pop()))
    return True
