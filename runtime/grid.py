"""A region at one resolution: the sizes of its tensors, the cells of its segments, and what dirties them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .costs import DeviceCosts
from .dirtiness import Dirtiness, dirtiness_of
from .geometry import count_cells
from .manifest import GridTensor, LocalSegment, Pair, Region


@dataclass(frozen=True)
class RegionGrid:
    """`sizes`: (height, width) of every tensor. `cells`: the grid of every segment. `refusal`: why the region cannot
    run on windows at this resolution, or ""."""

    region: Region
    sizes: Mapping[str, Pair]
    cells: tuple[Pair, ...]
    dirtiness: Dirtiness
    costs: DeviceCosts
    refusal: str = ""
    axes: Mapping[str, Pair] = field(default_factory=dict)

    def axes_of(self, name: str) -> Pair:
        """The axes of a tensor that hold height and width."""
        return self.axes.get(name, (2, 3))

    def priced(self, costs: DeviceCosts) -> RegionGrid:
        """The same grid with other costs."""
        if costs is self.costs:
            return self
        dirtiness = dirtiness_of(self.region, self.sizes, self.cells, costs)
        return replace(self, costs=costs, dirtiness=dirtiness)


def grid_of(region: Region, shapes: Mapping[str, Sequence[int]], costs: DeviceCosts) -> RegionGrid:
    """The grid of a region whose inputs and segment outputs have these shapes."""
    axes = {t.name: t.axes for s in region.segments for t in (*s.inputs, *s.outputs)}
    sizes: dict[str, Pair] = {}
    for name, shape in shapes.items():
        height, width = axes.get(name, (2, 3))
        if len(shape) > max(height, width):
            sizes[name] = shape[height], shape[width]
    cells = tuple(_cells(segment, sizes) for segment in region.segments)
    refusals = [_refusal(s, sizes) for s in region.segments]
    dirtiness = dirtiness_of(region, sizes, cells, costs)
    return RegionGrid(region, sizes, cells, dirtiness, costs, next(filter(None, refusals), ""), axes)


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
