"""What analysis found: one record per node, and the maps that hold a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import onnx
from onnx import numpy_helper

from ...runtime.manifest import Decision, Pair
from ..graph import Graph
from ..probe import Probes
from .field import Fields

LOCAL = "local"
BARRIER = "barrier"
DECISION = "decision"
MASK = "mask"  # computes a mask tensor from mask tensors
FLAT = "flat"  # reads no map: what follows a global pooling


@dataclass(frozen=True)
class NodeInfo:
    """A node that computes data. `fields` per data input name, if local; `reason` says why it is not.

    `macs` and `bytes` (read and written, weights included) are those of the sample's shapes."""

    name: str
    op: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fields: dict[str, Fields] = field(default_factory=dict)
    reason: str = ""
    macs: float = 0.0
    bytes: float = 0.0
    weight_bytes: float = 0.0
    whole_cells: bool = False
    spare: Pair = (0, 0)  # see registry.Local


@dataclass(frozen=True)
class Analysis:
    """`program` and `local` are the two normal forms (see normalize); nodes have the same names in both.

    `nodes` are in topological order and leave out those that compute only constants and shapes. `axes` are those of
    every tensor that holds a map; `masks` are the mask tensors among them."""

    program: Graph
    local: Graph
    probes: Probes
    nodes: tuple[NodeInfo, ...]
    axes: dict[str, Pair]
    masks: frozenset[str]
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, NodeInfo]:
        return {node.name: node for node in self.nodes}

    @property
    def barriers(self) -> tuple[str, ...]:
        """ "node (op): reason" of every barrier."""
        return tuple(f"{n.name} ({n.op}): {n.reason}" for n in self.nodes if n.kind == BARRIER)

    @property
    def macs(self) -> float:
        return sum(node.macs for node in self.nodes)

    @property
    def batch(self) -> int:
        """Images in the sample."""
        sizes = self.probes.sample.sizes
        return next((n for name, n in sizes.items() if name.endswith("batch")), 1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers of the program."""
        return sum(numpy_helper.to_array(i).nbytes for i in self.program.initializers.values())

    def size(self, name: str) -> Pair:
        """Height and width of a map at the sample's resolution."""
        shape, (h, w) = self.probes.sample.shapes[name], self.axes[name]
        return shape[h], shape[w]

    def bytes_per_position(self, name: str) -> float:
        """Bytes of one position of a map, all channels, of one image."""
        shape, axes = self.probes.sample.shapes[name], self.axes[name]
        return 4.0 * math.prod(n for i, n in enumerate(shape) if i not in (0, *axes))


def topological(graph: Graph) -> list[onnx.NodeProto]:
    """Nodes that compute data, in the file's order, which ONNX requires to be topological."""
    return [node for node in graph.nodes if not graph.is_free(node)]
