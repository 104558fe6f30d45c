"""Which nodes of a program may be quantized: its layers with weights, but for those that serve decisions alone.

A layer is what has a precision of its own: finer than a segment, whose precision is that of its layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from ..pipeline.graph import DOMAIN, node_inputs, op_key
from ..runtime.errors import ProgramError

OPS = ("Conv", "Gemm", "MatMul")
_DECIDING = ("EnergyMask", "ExitGate")
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Layer:
    """A node with weights. reads: the tensor that is quantized with it; macs: multiply-adds at the sample's shape."""

    name: str
    op: str
    reads: str
    macs: float


def layers_of(program: onnx.ModelProto, macs: dict[str, float] | None = None) -> list[Layer]:
    """In the graph's order; nodes without a name get one, in place. `macs`: by name, 0 where it says nothing.

    Raises ProgramError for a program that is quantized already, and one without such layers."""
    graph = program.graph
    if any(node.op_type in _QUANTIZING for node in graph.node):
        raise ProgramError(
            f"program {graph.name!r}",
            got="QuantizeLinear and DequantizeLinear nodes",
            expected="a program in floats",
            fix="Quantize the program that this one was made of.",
        )
    _name(graph)
    weights = {i.name: i for i in graph.initializer}
    choices = {i.name for i in graph.input}
    answering = _answering(graph)
    found = []
    for node in graph.node:
        weight = weights.get(node.input[1]) if op_key(node)[1] in OPS and len(node.input) > 1 else None
        if weight is None or weight.name in choices or op_key(node)[0] or node.name not in answering:
            continue
        if weight.data_type == onnx.TensorProto.FLOAT and (node.op_type == "Conv" or len(weight.dims) == 2):
            found.append(Layer(node.name, node.op_type, node.input[0], (macs or {}).get(node.name, 0.0)))
    if not found:
        raise ProgramError(
            f"program {graph.name!r}",
            got=f"no {', '.join(OPS)} with float32 weights of its own",
            expected="layers to quantize",
            fix="Quantization has nothing to do here: build the program as it is.",
        )
    return found


def _name(graph: onnx.GraphProto) -> None:
    taken = {node.name for node in graph.node}
    free = (name for n in range(len(graph.node) + len(taken)) if (name := f"layer{n}") not in taken)
    seen: set[str] = set()
    for node in graph.node:
        if not node.name or node.name in seen:
            node.name = next(free)
        seen.add(node.name)


def _answering(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that the outputs need otherwise than for a decision."""
    producer = {name: node for node in graph.node for name in node.output if name}
    pending, names = [o.name for o in graph.output], set[str]()
    while pending:
        node = producer.get(pending.pop())
        if node is None or node.name in names:
            continue
        names.add(node.name)
        if not decides(node):
            pending += node_inputs(node)
    return names


def decides(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type in _DECIDING


def decided_tensors(program: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Of each decision its name and what it decides: a keep mask [B, 1, H, W], or depths [B]."""
    for node in program.graph.node:
        if decides(node):
            yield node.name, node.output[0]
