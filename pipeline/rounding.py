"""What a model in float16 or bfloat16 computes, in float32: for runtimes without kernels of that type.

onnxruntime on a CPU has hardly any of bfloat16, and those of float16 it runs in float32, some without rounding between.
Here every result of the lower type is rounded to it, and sums are float32, as those of tensor cores are. What a GPU may
do beside, in the order of its sums and in fused layers that round less often, this does not show.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..export.values import graphs
from .lower_precision import KINDS


def in_float32(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of a model of `lower_precision(…, precision)` in float32, with the values that it has there."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kind, suffix = KINDS[precision], f".{precision}"
    for tensor in made.graph.initializer:
        if tensor.data_type == kind:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for graph in graphs(made.graph):
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            _add_rounded(graph, node, kind, suffix)
    return made


def _add_rounded(graph: onnx.GraphProto, node: onnx.NodeProto, kind: int, suffix: str) -> None:
    """The node with its results of the lower type, whose names tell them, rounded there and back."""
    low = [name for name in node.output if name.endswith(suffix)]
    source = node.input[0] if node.op_type == "Cast" else ""
    if not low:
        graph.node.append(node)
        return
    if node.op_type != "Cast":
        node.output[:] = [f"{name}.exact" if name in low else name for name in node.output]
        graph.node.append(node)
    for name in low:
        graph.node.append(helper.make_node("Cast", [source or f"{name}.exact"], [f"{name}.low"], to=kind))
        graph.node.append(helper.make_node("Cast", [f"{name}.low"], [name], to=TensorProto.FLOAT))
