"""Constant nodes become initializers, so that their bytes can be shared between files."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph import attributes

_PLAIN = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def lift_constants(model: onnx.ModelProto) -> None:
    graph = model.graph
    outputs = {o.name for o in graph.output}
    kept = []
    for node in graph.node:
        tensor = _constant(node) if node.output and node.output[0] not in outputs else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(rest)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for name, value in attributes(node).items():
        if name == "value":
            copy = onnx.TensorProto()
            copy.CopyFrom(value)
            return copy
        if name in _PLAIN:
            return numpy_helper.from_array(np.array(value, _PLAIN[name]))
    return None
