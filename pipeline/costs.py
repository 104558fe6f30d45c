"""The analytic cost of running a group of local nodes on windows, by which blocks are grouped into segments.

It only ranks groupings; whether a region pays on a device is measured there (runtime/breakeven.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.manifest import Pair
from .analyze.analysis import Analysis, NodeInfo
from .geometry import Geometry
from .terms import Terms


@dataclass(frozen=True)
class CostModel:
    """A typical image and device: `objects` compact active areas that together cover `active` of the map."""

    active: float = 0.2
    objects: int = 3
    call_ms: float = 0.2  # fixed cost of one call on one window: gathering, scattering and planning are in it
    gmacs: float = 60.0  # multiply-adds per second, in 1e9
    gbytes: float = 8.0  # memory traffic per second, in 1e9


def macs_per_cell(nodes: Sequence[NodeInfo], geometry: Geometry, analysis: Analysis) -> float:
    """Multiply-adds that a cell takes of one image."""
    return sum(per_position(n, n.macs, analysis) * _area(geometry, n.outputs[0]) for n in nodes)


def per_position(node: NodeInfo, amount: float, analysis: Analysis) -> float:
    """An amount of the whole node, per position of its output and image."""
    high, wide = analysis.size(node.outputs[0])
    return amount / (high * wide * analysis.probes.sample.shapes[node.outputs[0]][0])


def dense_ms(nodes: Sequence[NodeInfo], analysis: Analysis, model: CostModel) -> float:
    """Estimated ms of nodes run on the whole map, for one image at the sample's resolution."""
    macs, moved = sum(n.macs for n in nodes), sum(n.bytes - n.weight_bytes for n in nodes)
    return model.call_ms + (macs / (model.gmacs * 1e6) + moved / (model.gbytes * 1e6)) / analysis.batch


def group_ms(
    nodes: Sequence[NodeInfo],
    geometry: Geometry,
    outputs: Sequence[str],
    dirty: dict[str, Terms | None],
    analysis: Analysis,
    model: CostModel,
) -> float:
    """Estimated ms of the group for one image at the sample's resolution."""
    macs = macs_per_cell(nodes, geometry, analysis)
    moved = sum(
        per_position(n, n.bytes - n.weight_bytes, analysis) * _area(geometry, n.outputs[0]) for n in nodes
    )
    cell_ms = macs / (model.gmacs * 1e6) + moved / (model.gbytes * 1e6)
    window = 1.0
    whole = 1.0
    for axis in (0, 1):
        cells = max(
            math.ceil(analysis.size(o)[axis] / geometry.positions[o][axis]) for n in nodes for o in n.outputs
        )
        side = cells * math.sqrt(model.active / model.objects) + _spread(outputs, dirty, geometry, axis)
        window *= min(cells, math.ceil(side) + 1 + geometry.halo_low[axis] + geometry.halo_high[axis])
        whole *= cells
    return model.call_ms * model.objects + cell_ms * min(window * model.objects, whole)


def _spread(outputs: Sequence[str], dirty: dict[str, Terms | None], geometry: Geometry, axis: int) -> float:
    """By how many cells a mask's active area grows until it reaches the outputs."""
    grown = [0.0]
    for name in outputs:
        for fields in (dirty.get(name) or {}).values():
            field = fields[axis]
            grown.append(float((field.high - field.low) / field.stride) / geometry.positions[name][axis])
    return max(grown)


def _area(geometry: Geometry, name: str) -> int:
    per: Pair = geometry.positions[name]
    return per[0] * per[1]
