"""A read-only view of an ONNX graph: who makes and who reads each tensor, and what each tensor depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

DOMAIN = "ai.foveate"
SAMPLE = (
    DOMAIN,
    "DeformableSample",
)  # decides nothing: work, which engines run by a native kernel or by its body

CONST = "const"  # from initializers and choices alone: the same for every image and resolution
SHAPE = "shape"  # from shapes and constants alone: the same for every image of one resolution
DATA = "data"

_SHAPE_OPS = ("Shape", "Size")
_WORK = ("Sin", "Cos")  # of positional embeddings: not shape arithmetic that each engine may as well repeat


def op_key(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute values by name; strings as str."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def node_inputs(node: onnx.NodeProto) -> list[str]:
    """Names a node reads, with those that its subgraphs read from outside."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            names += [name for name in _free_names(graph) if name not in names]
    return names


def _free_names(graph: onnx.GraphProto) -> Iterator[str]:
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    for node in graph.node:
        yield from (name for name in node_inputs(node) if name not in own)
        own.update(node.output)
    yield from (o.name for o in graph.output if o.name not in own)


@dataclass
class Graph:
    """`nodes` in topological order. `depends[t]` is the class of tensor t: CONST, SHAPE or DATA."""

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(init=False)
    by_name: dict[str, onnx.NodeProto] = field(init=False)
    initializers: dict[str, onnx.TensorProto] = field(init=False)
    producer: dict[str, onnx.NodeProto] = field(init=False)
    inputs: list[str] = field(init=False)  # without choices
    choices: list[str] = field(init=False)  # graph inputs with an initializer
    outputs: list[str] = field(init=False)
    depends: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.by_name = {node.name: node for node in self.nodes}
        self.initializers = {i.name: i for i in graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.inputs = [i.name for i in graph.input if i.name not in self.initializers]
        self.choices = [i.name for i in graph.input if i.name in self.initializers]
        self.outputs = [o.name for o in graph.output]
        self.depends = self._classify()

    def _classify(self) -> dict[str, str]:
        kinds = dict.fromkeys(self.initializers, CONST)
        kinds.update(dict.fromkeys(self.inputs, DATA))
        for node in self.nodes:
            read = {kinds.get(name, DATA) for name in node_inputs(node)}
            if (
                op_key(node)[0]
                or op_key(node)[1].startswith("Random")
                or node.op_type in _WORK
                or set(node.output) & set(self.outputs)
            ):
                kind = DATA  # a decision, an unknown op, work, or something that must be computed anyway
            elif node.op_type in _SHAPE_OPS and DATA in read:
                kind = SHAPE
            else:
                kind = DATA if DATA in read else SHAPE if SHAPE in read else CONST
            kinds.update({name: kind for name in node.output if name})
        return kinds

    def is_free(self, node: onnx.NodeProto) -> bool:
        """True for nodes that compute constants and shapes: every engine that needs one repeats it."""
        return all(self.depends[name] != DATA for name in node.output if name)

    def is_shared(self, tensor: str) -> bool:
        """True for what is the same for all images of a batch: no value of an input has a part in it."""
        pending, seen = [tensor], set[str]()
        while pending:
            name = pending.pop()
            if name in seen or self.depends.get(name, DATA) != DATA:
                continue
            if name not in self.producer:
                return False
            seen.add(name)
            pending += node_inputs(self.producer[name])
        return True

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node_inputs(node) if self.depends.get(name, DATA) == DATA]

    def sources(self, node: onnx.NodeProto) -> list[str]:
        """Data tensors that must exist before `node` can run, also those of which it needs only the shape."""
        found: dict[str, None] = {}
        pending = node_inputs(node)
        seen: set[str] = set()
        while pending:
            name = pending.pop(0)
            if name in seen:
                continue
            seen.add(name)
            if self.depends.get(name, DATA) == DATA:
                found[name] = None
            elif name in self.producer:
                pending += node_inputs(self.producer[name])
        return list(found)

    def free_closure(self, nodes: Iterable[onnx.NodeProto]) -> set[str]:
        """Names of the free nodes that these nodes need, directly or through each other."""
        names: set[str] = set()
        pending = list(nodes)
        while pending:
            for name in node_inputs(pending.pop()):
                made_by = self.producer.get(name)
                if made_by is not None and self.is_free(made_by) and made_by.name not in names:
                    names.add(made_by.name)
                    pending.append(made_by)
        return names

    def initializer(self, name: str) -> np.ndarray | None:
        found = self.initializers.get(name)
        return None if found is None else numpy_helper.to_array(found)
