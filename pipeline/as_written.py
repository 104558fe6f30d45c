"""Programs in Q/DQ, computed as written: every node in floats. onnxruntime makes sums of bytes of them, which saturate
on processors that have AVX2 alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


def is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def compute_as_written(options: Any) -> None:
    """For the SessionOptions of onnxruntime."""
    options.add_session_config_entry("session.disable_quant_qdq", "1")


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same numbers, an order of magnitude faster: weights are dequantized once, not in every run. `model` is
    changed in place; its weights must be in it."""
    graph = model.graph
    tensors = {i.name: i for i in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            graph.initializer.append(_dequantized(node, tensors))
        else:
            graph.node.append(node)
    return model


def _dequantized(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> onnx.TensorProto:
    values, scale = (numpy_helper.to_array(tensors[name]) for name in node.input[:2])
    zero = numpy_helper.to_array(tensors[node.input[2]]) if len(node.input) > 2 else np.zeros(scale.shape)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if scale.ndim:
        shape = [-1 if i == axis % values.ndim else 1 for i in range(values.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    exact = (values.astype(np.float32) - zero.astype(np.float32)) * scale
    return numpy_helper.from_array(exact.astype(np.float32), node.output[0])
