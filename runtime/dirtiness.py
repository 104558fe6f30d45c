"""What of a region must be computed, worked out once per resolution: each distinct map, set of cells and cover.

Most segments of a region share them (a persistent mask dirties every tensor of a resolution alike), so a plan goes
through a handful of rules however many segments there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .costs import DeviceCosts
from .errors import BundleError
from .geometry import is_identity
from .manifest import GridTensor, LocalSegment, Pair, Region, Term
from .windows import Halo


@dataclass(frozen=True)
class MapRule:
    """Dirty positions of `size`: those of a mask (`mask`), all of them (neither mask nor terms), or what terms reach,
    each from the map of an earlier rule."""

    size: Pair
    mask: str = ""
    terms: tuple[tuple[int, Term], ...] = ()


@dataclass(frozen=True)
class CellRule:
    """Dirty cells: the union of maps (by rule), each with so many positions a cell."""

    cells: Pair
    parts: tuple[tuple[int, Pair], ...]


@dataclass(frozen=True)
class WindowRule:
    """Windows that a group of segments shares: of a cell rule's cover, or of the whole map for strategy "dense".

    fixed_ms is what one call costs beside its cells, ms_per_cell what a cell does, over the group's segments. The
    cover is planned for `cover_halo` and `fixed_cells`, which all groups of the same cells have in common.
    """

    cell_rule: int
    halo: Halo
    strategy: str
    fixed_ms: float = 0.0
    ms_per_cell: float = 0.0
    cover_halo: Halo = (0, 0, 0, 0)
    fixed_cells: float = 1.0


@dataclass(frozen=True)
class Dirtiness:
    """The rules of a region, in an order in which sources come first, and the window rule of every segment."""

    maps: tuple[MapRule, ...]
    cells: tuple[CellRule, ...]
    windows: tuple[WindowRule, ...]
    segments: tuple[int, ...]


def dirtiness_of(
    region: Region, sizes: Mapping[str, Pair], cells: Sequence[Pair], costs: DeviceCosts
) -> Dirtiness:
    """The rules for tensors of these sizes; `cells` is the grid of each segment."""
    rules = _Rules(region, sizes)
    groups = [rules.group(s, grid) for s, grid in zip(region.segments, cells, strict=True)]
    windows = _priced(rules.windows, groups, region, costs)
    return Dirtiness(tuple(rules.maps), tuple(rules.cells), windows, tuple(groups))


@dataclass
class _Rules:
    """Rules found so far; an equal one is found again instead of added."""

    region: Region
    sizes: Mapping[str, Pair]
    maps: list[MapRule] = field(default_factory=list)
    cells: list[CellRule] = field(default_factory=list)
    windows: list[WindowRule] = field(default_factory=list)
    by_tensor: dict[str, int] = field(default_factory=dict)

    def group(self, segment: LocalSegment, grid: Pair) -> int:
        """The window rule of a segment."""
        for tensor in segment.outputs:
            self.by_tensor[tensor.name] = self._output(tensor)
        parts = tuple(dict.fromkeys((self.by_tensor[t.name], t.positions) for t in segment.outputs))
        cells = _find(self.cells, CellRule(grid, parts))
        return _find(self.windows, WindowRule(cells, halo_of(segment), segment.strategy))

    def _output(self, tensor: GridTensor) -> int:
        size = self.sizes[tensor.name]
        terms = tuple(dict.fromkeys((self._source(term.source), term) for term in tensor.dirty))
        if len(terms) == 1 and is_identity(terms[0][1]) and self.maps[terms[0][0]].size == size:
            return terms[0][0]
        # A rule is told from others by where its terms come from, not by the names of the sources.
        return _find(self.maps, MapRule(size, terms=tuple((s, replace(t, source="")) for s, t in terms)))

    def _source(self, name: str) -> int:
        if name in self.by_tensor:
            return self.by_tensor[name]
        if name not in self.region.inputs:
            raise BundleError(
                f"region {self.region.name!r}",
                got=f"dirtiness from {name!r}, which no earlier segment computes",
                expected="one of its inputs or of the outputs computed before",
                fix="Build the bundle again with `foveate build`.",
            )
        mask = name if name in self.region.masks else ""
        self.by_tensor[name] = _find(self.maps, MapRule(self.sizes[name], mask))
        return self.by_tensor[name]


def _find(rules: list, rule: object) -> int:
    if rule not in rules:
        rules.append(rule)
    return rules.index(rule)


def halo_of(segment: LocalSegment) -> Halo:
    return (*segment.halo_low, *segment.halo_high)


def _priced(
    windows: Sequence[WindowRule], groups: Sequence[int], region: Region, costs: DeviceCosts
) -> tuple[WindowRule, ...]:
    summed = []
    for index, rule in enumerate(windows):
        members = [costs.of(s.name) for s, g in zip(region.segments, groups, strict=True) if g == index]
        fixed, per_cell = sum(c.fixed_ms for c in members), sum(c.ms_per_cell for c in members)
        summed.append(replace(rule, fixed_ms=fixed, ms_per_cell=per_cell))
    return tuple(_with_cover(rule, [r for r in summed if r.cell_rule == rule.cell_rule]) for rule in summed)


def _with_cover(rule: WindowRule, sharing: Sequence[WindowRule]) -> WindowRule:
    halo = np.max([r.halo for r in sharing], axis=0).tolist()
    per_cell = sum(r.ms_per_cell for r in sharing)
    fixed = sum(r.fixed_ms for r in sharing) / per_cell if per_cell > 0 else 1.0
    return replace(rule, cover_halo=tuple(halo), fixed_cells=fixed)
