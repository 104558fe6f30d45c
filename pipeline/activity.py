"""Active work: what each layer of a program must compute at least, given the masks of one image.

A layer's minimal exact set holds the positions of its output that differ from the reference state and that a later
layer reads in order to compute its own. Halos and covers are a strategy's price and do not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.geometry import reach_map, support
from ..runtime.manifest import Pair, Term
from .analyze.analysis import LOCAL, Analysis, NodeInfo
from .analyze.field import Field, Fields
from .partition import PartitionStep, partition

Maps = dict[str, np.ndarray]  # bool [h, w] by tensor


@dataclass(frozen=True)
class LayerWork:
    """One node, one image. `active` is the share of its output's positions in its minimal exact set, 1 if dense.

    `active_bytes` are the weights whole and the activations' share."""

    name: str
    op: str
    active: float
    macs: float
    bytes: float
    active_macs: float
    active_bytes: float


@dataclass(frozen=True)
class Work:
    """All nodes of the program, in order."""

    layers: tuple[LayerWork, ...]

    @property
    def dense_macs(self) -> float:
        return sum(layer.macs for layer in self.layers)

    @property
    def active_macs(self) -> float:
        return sum(layer.active_macs for layer in self.layers)

    @property
    def dense_bytes(self) -> float:
        return sum(layer.bytes for layer in self.layers)

    @property
    def active_bytes(self) -> float:
        return sum(layer.active_bytes for layer in self.layers)


def active_macs(
    analysis: Analysis,
    masks: Mapping[str, np.ndarray],
    *,
    size: Pair | None = None,
    steps: Sequence[PartitionStep] | None = None,
    left: Collection[str] = (),
) -> Work:
    """The work of one image at `size` (height, width; by default the sample's).

    masks: every mask tensor that a region reads, e.g. mask0.keep [1, 1, H, W], at that size. steps: those of the
    partition, if it was made before. left: names of nodes that lie behind the exit that the image takes.
    """
    scale = _scale(analysis, size)
    shares: dict[str, float] = {}
    for step in partition(analysis) if steps is None else steps:
        if step.local:
            shares |= _region_shares(step, analysis, masks, scale)
    shares |= dict.fromkeys(left, 0.0)
    return Work(tuple(_layer(node, shares.get(node.name, 1.0), analysis, scale) for node in analysis.nodes))


def _scale(analysis: Analysis, size: Pair | None) -> tuple[float, float]:
    """By how much the image is higher and wider than the sample."""
    name = next((n for n in analysis.program.inputs if n in analysis.axes), None)
    if size is None or name is None:
        return 1.0, 1.0
    own = analysis.size(name)
    return size[0] / own[0], size[1] / own[1]


def _size(name: str, analysis: Analysis, scale: tuple[float, float]) -> Pair:
    h, w = analysis.size(name)
    return max(1, -int(-h * scale[0] // 1)), max(1, -int(-w * scale[1] // 1))


def _layer(node: NodeInfo, share: float, analysis: Analysis, scale: tuple[float, float]) -> LayerWork:
    spatial = all(o in analysis.axes for o in node.outputs)
    grown = scale[0] * scale[1] if spatial else 1.0
    batch = analysis.batch
    macs = node.macs * grown / batch
    activations = (node.bytes - node.weight_bytes) * grown / batch
    weights = node.weight_bytes if share else 0.0
    active = macs * share, activations * share + weights
    return LayerWork(node.name, node.op, share, macs, activations + node.weight_bytes, *active)


def _region_shares(
    step: PartitionStep, analysis: Analysis, masks: Mapping[str, np.ndarray], scale: tuple[float, float]
) -> dict[str, float]:
    """Share of each node's output positions in its minimal exact set."""
    maps = {t: support(masks[t], analysis.axes[t]) for t in step.inputs if t in analysis.masks}
    dirty = _dirty(step.nodes, analysis, maps, scale)
    wanted: Maps = {t: np.ones_like(dirty[t]) for t in step.outputs}
    shares = {}
    for node in reversed(step.nodes):
        needed = np.zeros_like(dirty[node.outputs[0]])
        for output in node.outputs:
            if output in wanted:
                needed |= dirty[output] & wanted[output]
        shares[node.name] = float(needed.mean())
        for name, fields in node.fields.items():
            if name in dirty:  # made in this region
                read = _read(needed, fields, dirty[name].shape)
                wanted[name] = wanted[name] | read if name in wanted else read
    return shares


def _dirty(
    nodes: Sequence[NodeInfo], analysis: Analysis, masks: Maps, scale: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Where every tensor made by the nodes differs from the reference state, bool [h, w]."""
    dirty: Maps = {}
    for node in nodes:
        assert node.kind == LOCAL
        cutting = [n for n in node.fields if n in masks] if node.op == "Mul" else []
        size = masks[cutting[0]].shape if cutting else _output_size(node, analysis, masks | dirty, scale)
        found = np.zeros(size, bool)
        for name in cutting[:1] or node.fields:
            source = masks.get(name, dirty.get(name))
            if source is None:  # from outside the region: dirty everywhere
                found[:] = True
            else:
                found |= reach_map(source, _term(name, node.fields[name]), found.shape)
        dirty.update(dict.fromkeys(node.outputs, found))
    return dirty


def _output_size(node: NodeInfo, analysis: Analysis, known: Maps, scale: tuple[float, float]) -> Pair:
    """That of a known input where nothing changes it, so that sizes do not drift by rounding."""
    for name, (y, x) in node.fields.items():
        if (
            name in known
            and y.stride == x.stride == 1
            and analysis.size(name) == analysis.size(node.outputs[0])
        ):
            return known[name].shape
    return _size(node.outputs[0], analysis, scale)


def _term(name: str, fields: Fields) -> Term:
    y, x = fields
    return Term(
        name,
        (y.stride.numerator, x.stride.numerator),
        (y.stride.denominator, x.stride.denominator),
        (y.low, x.low),
        (y.high, x.high),
    )


def _read(needed: np.ndarray, fields: Fields, size: Pair) -> np.ndarray:
    """Input positions, bool of `size`, that the needed output positions read."""
    for axis, field in enumerate(fields):
        needed = _read_axis(needed, axis, field, size[axis])
    return needed


def _read_axis(needed: np.ndarray, axis: int, field: Field, n: int) -> np.ndarray:
    outputs = np.moveaxis(needed, axis, 0).astype(np.int32)
    base = np.arange(len(outputs)) * field.stride.numerator // field.stride.denominator
    counts = np.zeros((n + 1, outputs.shape[1]), np.int32)
    np.add.at(counts, np.clip(base + field.low, 0, n), outputs)
    np.subtract.at(counts, np.clip(base + field.high + 1, 0, n), outputs)
    return np.moveaxis(np.cumsum(counts[:-1], axis=0) > 0, 0, axis)
