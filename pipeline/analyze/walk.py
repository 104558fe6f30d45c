"""The walk over a program's nodes in topological order that decides the kind of each."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import onnx

from ...runtime.manifest import Decision, Pair
from ..graph import DATA, DOMAIN, SAMPLE, Graph, op_key
from ..normalize.static_shapes import map_axes, read_dims
from ..probe import Probes
from .analysis import BARRIER, DECISION, FLAT, LOCAL, MASK, NodeInfo, topological
from .macs import count_macs
from .registry import Barrier, NodeView, read_node

# 0 where all their operands are 0: a mask tensor through one of these is a mask tensor.
# fmt: off
ZERO_PRESERVING = frozenset((
    "MaxPool", "AveragePool", "Mul", "Min", "Max", "Resize", "Slice", "Cast", "Identity", "Expand",
    "Transpose", "Relu", "Abs", "Ceil", "Sign", "Sqrt", "QuantizeLinear", "DequantizeLinear",
))
# fmt: on


class Walk:
    """Fills `nodes`, `axes`, `masks` and `decisions`; see Analysis."""

    def __init__(self, local: Graph, probes: Probes, whole: frozenset[str]):
        self.graph, self.probes, self._whole = local, probes, whole
        self.nodes: list[NodeInfo] = []
        self.axes: dict[str, Pair] = _input_axes(local)
        self.masks: set[str] = set()
        self.decisions: list[Decision] = []
        for node in topological(local):
            self._visit(node)

    def _visit(self, node: onnx.NodeProto) -> None:
        if op_key(node)[0] == DOMAIN and op_key(node) != SAMPLE:
            self._decide(node)
        elif self._is_mask(node):
            self._add(node, MASK, reason="mask tensor")
            self.masks.update(o for o in node.output if o)
            self._inherit_axes(node)
        else:
            self._classify(node)

    def _decide(self, node: onnx.NodeProto) -> None:
        self._add(node, DECISION, reason="decision")
        self._inherit_axes(node)
        if node.op_type == "EnergyMask":
            keep, logits, energy = node.output
            # The energy serves training; computing it would double what the decision costs at run time.
            wanted = energy if energy in self.graph.outputs else None
            self.decisions.append(Decision(node.name, "energy_mask", keep, logits, wanted))
            self.masks.add(keep)

    def _is_mask(self, node: onnx.NodeProto) -> bool:
        data = self.graph.data_inputs(node)
        plain = op_key(node) == ("", node.op_type) and node.op_type in ZERO_PRESERVING
        if not (plain and data and all(name in self.masks for name in data)):
            return False
        others = [n for n in node.input if n and self._is_free(n)]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return not self._nonzero(others[1:])  # the zero point
        return not others or node.op_type not in ("Max", "Min") or not self._nonzero(others)

    def _nonzero(self, names: list[str]) -> bool:
        """Whether any of these constants is other than 0 or unknown."""
        values = [self.graph.initializer(name) for name in names]
        return any(v is None or np.any(v != 0) for v in values)

    def _classify(self, node: onnx.NodeProto) -> None:
        view = NodeView(node, self.graph, self.probes, self.axes)
        if not any(name in self.axes for name in self.graph.data_inputs(node)):
            self._add(node, FLAT, reason="reads no map")
            self._probe_axes(node)
            return
        found = read_node(view)
        if isinstance(found, Barrier):
            self._add(node, BARRIER, reason=found.reason)
            self._probe_axes(node)
            return
        fields: dict = {}
        for i, field in found.fields.items():
            name = node.input[i]
            field = field[0].there(found.spare[0]), field[1].there(found.spare[1])
            known = fields.get(name)
            fields[name] = (
                field if known is None else tuple(a.hull(b) for a, b in zip(known, field, strict=True))
            )
        self._add(node, LOCAL, fields=fields, whole_cells=node.name in self._whole, spare=found.spare)
        self.axes.update({o: found.axes for o in node.output if o})

    def _add(self, node: onnx.NodeProto, kind: str, **more) -> None:
        outputs = tuple(o for o in node.output if o)
        sample = self.probes.sample
        touched = [n for n in (*node.input, *outputs) if n in sample.shapes]
        info = NodeInfo(
            node.name,
            node.op_type,
            kind,
            tuple(dict.fromkeys(self.graph.data_inputs(node))),
            outputs,
            macs=count_macs(node, sample),
            bytes=4.0 * sum(math.prod(sample.shapes[n]) for n in touched),
            weight_bytes=4.0 * sum(math.prod(sample.shapes[n]) for n in touched if self._is_free(n)),
        )
        self.nodes.append(dataclasses.replace(info, **more))

    def _is_free(self, name: str) -> bool:
        return self.graph.depends.get(name) != DATA

    def _inherit_axes(self, node: onnx.NodeProto) -> None:
        """Mask tensors and decisions keep the layout of the map that they read, unless they transpose it."""
        data = next((n for n in self.graph.data_inputs(node) if n in self.axes), None)
        if data is None:
            return  # of tokens, or of features that were pooled
        h, w = self.axes[data]
        if node.op_type == "Transpose":
            perm = list(next(a.ints for a in node.attribute if a.name == "perm"))
            h, w = perm.index(h), perm.index(w)
        self.axes.update({o: (h, w) for o in node.output if o})

    def _probe_axes(self, node: onnx.NodeProto) -> None:
        """What comes out of a barrier may be a map again: its two dims that follow the image's height and width."""
        for name in node.output:
            axes = _measured_axes(name, self.probes) if name else None
            if axes is not None:
                self.axes[name] = axes


def _input_axes(graph: Graph) -> dict[str, Pair]:
    axes = {}
    for value in graph.model.graph.input:
        dims = read_dims(value)
        found = map_axes(len(dims), dims)
        if value.name in graph.inputs and found is not None:
            axes[value.name] = found
    return axes


def _measured_axes(name: str, probes: Probes) -> Pair | None:
    """Dims that grow in the same proportion as the first input's height and width, between runs at whole cells."""
    runs = [p for p in probes.runs if p.whole and name in p.shapes]
    ranks = {len(p.shapes[name]) for p in runs}
    sizes = {(p.sizes.get("height"), p.sizes.get("width")) for p in runs}
    if len(sizes) < 2 or len(ranks) != 1 or any(None in size for size in sizes):
        return None
    found = []
    for symbol in ("height", "width"):
        ratios = [{Fraction(p.shapes[name][i], p.sizes[symbol]) for p in runs} for i in range(max(ranks))]
        axes = [i for i, ratio in enumerate(ratios) if len(ratio) == 1]
        found.append(axes[0] if len(axes) == 1 else None)
    h, w = found
    return None if h is None or w is None or h == w else (h, w)
