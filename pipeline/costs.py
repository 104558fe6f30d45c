"""The analytic cost of running a group of local nodes on windows, by which blocks are grouped into segments.

It only ranks groupings; whether a region pays on a device is measured there (runtime/breakeven.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.device.tiles import SIDES
from ..runtime.engine import Config, NullConfig, OrtConfig, parts
from ..runtime.manifest import Pair
from .analyze.analysis import Analysis, NodeInfo
from .geometry import Geometry
from .terms import Terms


@dataclass(frozen=True)
class CostModel:
    """A typical image and device: `objects` compact active areas that together cover `active` of the map. Each is one
    window and one call; on a device of `tiles`, all of a map's are cut into windows of one size, which share a call."""

    active: float = 0.2
    objects: int = 3
    call_ms: float = 0.2  # fixed cost of one call: gathering, scattering and planning are in it
    gmacs: float = 60.0  # multiply-adds per second, in 1e9
    gbytes: float = 8.0  # memory traffic per second, in 1e9, of values of four bytes
    tiles: tuple[int, ...] = ()  # sides in cells; windows are copied from and to maps, which is traffic, too


# Of an image, in one area, as the runtime has it where it chooses tiles (device/executor.py).
_GPU_ACTIVE = 0.1
# To queue an engine and the copies of windows around it, 20 µs, for two images: between one and a large batch.
_GPU_CALL_MS = 0.02 / 2
_GPU_GBYTES = 3350.0
_GPU_RATES = {  # by precision: multiply-adds per second, in 1e9, and bytes of a value
    "fp32": (33.5e3, 4),
    "tf32": (247e3, 4),
    "fp16": (495e3, 2),
    "bf16": (495e3, 2),
    "int8": (990e3, 1),
    "fp8": (990e3, 1),
}
"""Peaks of the data sheet of an H100 SXM, for dense matrices. All of this is assumed, not measured. Other GPUs have
lower peaks in much the same ratio, while calls cost them as much."""
_REACHED = 0.5, 0.6  # of the peaks, by convolutions and by what moves values


def usual_model(config: Config, analysis: Analysis) -> CostModel:
    """Of the device that an engine's config is for: a CPU, or a GPU in the precision of the config or the program."""
    if isinstance(config, OrtConfig | NullConfig):
        return CostModel()
    kind, floats = parts(config.precision or "fp32")
    precision = kind or floats
    if precision == "fp32" and _is_half(analysis):
        precision = "fp16"
    gmacs, size = _GPU_RATES[precision]
    rates = _REACHED[0] * gmacs, _REACHED[1] * _GPU_GBYTES * 4 / size
    return CostModel(_GPU_ACTIVE, 1, _GPU_CALL_MS, *rates, tiles=SIDES)


def _is_half(analysis: Analysis) -> bool:
    """Whether the program computes in two bytes."""
    kinds = {analysis.probes.sample.dtypes[n.outputs[0]] for n in analysis.nodes if n.macs}
    return bool(kinds & {"float16", "bfloat16"})


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
    axes = [_Axis.of(axis, nodes, outputs, geometry, dirty, analysis, model) for axis in (0, 1)]
    whole_ms = cell_ms * math.prod(axis.cells for axis in axes)
    if model.tiles:
        copy_ms = 2 * _border_bytes(nodes, outputs, geometry, analysis) / (model.gbytes * 1e6)
        windows = min(math.prod(axis.in_tiles(tile) for axis in axes) for tile in model.tiles)
        return model.call_ms + min((cell_ms + copy_ms) * windows * model.objects, whole_ms)
    window = math.prod(min(axis.cells, math.ceil(axis.side) + 1 + axis.halo) for axis in axes)
    return model.call_ms * model.objects + min(cell_ms * window * model.objects, whole_ms)


@dataclass(frozen=True)
class _Axis:
    """Cells along one axis: of the map, of an active area, and of a window's halo."""

    cells: int
    side: float
    halo: int

    @classmethod
    def of(
        cls,
        axis: int,
        nodes: Sequence[NodeInfo],
        outputs: Sequence[str],
        geometry: Geometry,
        dirty: dict[str, Terms | None],
        analysis: Analysis,
        model: CostModel,
    ) -> _Axis:
        cells = max(
            math.ceil(analysis.size(o)[axis] / geometry.positions[o][axis]) for n in nodes for o in n.outputs
        )
        side = cells * math.sqrt(model.active / model.objects) + _spread(outputs, dirty, geometry, axis)
        return cls(cells, side, geometry.halo_low[axis] + geometry.halo_high[axis])

    def in_tiles(self, tile: int) -> float:
        """Of the windows of an area, wherever it lies: it meets side ÷ tile + 1 tiles on average."""
        if tile + self.halo >= self.cells:
            return self.cells
        return min(self.side / tile + 1, math.ceil(self.cells / tile)) * (tile + self.halo)


def _border_bytes(
    nodes: Sequence[NodeInfo], outputs: Sequence[str], geometry: Geometry, analysis: Analysis
) -> float:
    """Of a cell, of all that a group reads and makes."""
    made = {o for n in nodes for o in n.outputs}
    inputs = {name for n in nodes for name in n.fields if name not in made}
    return sum(analysis.bytes_per_position(name) * _area(geometry, name) for name in (*inputs, *outputs))


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
