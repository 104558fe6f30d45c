"""A region at one resolution: the cells, halo, sizes and prices of its local segments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .costs import DeviceCosts, SegmentCost
from .geometry import count_cells
from .manifest import GridTensor, LocalSegment, Pair, Region
from .windows import Halo


@dataclass(frozen=True)
class SegmentGrid:
    """One local segment. `fixed_cells` is what a call costs beside its cells, in cells, for the rectangle planner."""

    segment: LocalSegment
    cells: Pair
    halo: Halo
    cost: SegmentCost
    fixed_cells: float


@dataclass(frozen=True)
class RegionGrid:
    """`sizes`: (height, width) of every tensor. `refusal`: why the region cannot run on windows here, or ""."""

    region: Region
    sizes: Mapping[str, Pair]
    segments: tuple[SegmentGrid, ...]
    costs: DeviceCosts
    refusal: str = ""

    def priced(self, costs: DeviceCosts) -> RegionGrid:
        """The same grid with other costs."""
        return self if costs is self.costs else _assemble(self.region, self.sizes, costs, self.refusal)


def grid_of(region: Region, shapes: Mapping[str, Sequence[int]], costs: DeviceCosts) -> RegionGrid:
    """The grid of a region whose inputs and segment outputs have these shapes."""
    axes = {t.name: t.axes for s in region.segments for t in (*s.inputs, *s.outputs)}
    sizes = {
        name: (shape[a[0]], shape[a[1]])
        for name, shape in shapes.items()
        if len(shape) > max(a := axes.get(name, (2, 3)))
    }
    refusal = next((r for r in (_refusal(s, sizes) for s in region.segments) if r), "")
    return _assemble(region, sizes, costs, refusal)


def _assemble(region: Region, sizes: Mapping[str, Pair], costs: DeviceCosts, refusal: str) -> RegionGrid:
    cells = [_cells(segment, sizes) for segment in region.segments]
    fixed = _fixed_cells(region, cells, costs)
    segments = tuple(
        SegmentGrid(s, c, _halo(s), costs.of(s.name), fixed[c, _halo(s)])
        for s, c in zip(region.segments, cells, strict=True)
    )
    return RegionGrid(region, sizes, segments, costs, refusal)


def _cells(segment: LocalSegment, sizes: Mapping[str, Pair]) -> Pair:
    first = segment.outputs[0]
    return count_cells(sizes[first.name], first.positions)


def _refusal(segment: LocalSegment, sizes: Mapping[str, Pair]) -> str:
    """Why windows of this segment would not be exact at these sizes."""
    cells = _cells(segment, sizes)
    for tensor in (*segment.inputs, *segment.outputs):
        size = sizes[tensor.name]
        if count_cells(size, tensor.positions) != cells:
            return f"{tensor.name} of {segment.name} is {size[0]}×{size[1]}: not {cells[0]}×{cells[1]} cells"
        if segment.whole_cells and not _is_whole(tensor, size):
            return f"{tensor.name} of {segment.name} is {size[0]}×{size[1]}: not a whole number of cells"
    return ""


def _is_whole(tensor: GridTensor, size: Pair) -> bool:
    return all(n % per == 0 for n, per in zip(size, tensor.positions, strict=True))


def _halo(segment: LocalSegment) -> Halo:
    return (*segment.halo_low, *segment.halo_high)


def _fixed_cells(region: Region, cells: Sequence[Pair], costs: DeviceCosts) -> dict[tuple[Pair, Halo], float]:
    """One price of a call for all segments with the same cells and halo, so that they can share a cover."""
    groups: dict[tuple[Pair, Halo], list[SegmentCost]] = {}
    for segment, grid in zip(region.segments, cells, strict=True):
        groups.setdefault((grid, _halo(segment)), []).append(costs.of(segment.name))
    fixed = {}
    for key, members in groups.items():
        per_cell = math.fsum(cost.ms_per_cell for cost in members)
        fixed[key] = math.fsum(cost.fixed_ms for cost in members) / per_cell if per_cell > 0 else 1.0
    return fixed
