"""Multiply-adds of a node, from its shapes. Elementwise work counts as none, as in the literature."""

from __future__ import annotations

import math

import onnx

from ..graph import attributes, op_key
from ..probe import Probe


def count_macs(node: onnx.NodeProto, probe: Probe) -> float:
    """Multiply-adds of the whole node at the probe's shapes, all images of its batch together."""
    if op_key(node)[0] or not node.output or node.output[0] not in probe.shapes:
        return 0.0
    out = math.prod(probe.shapes[node.output[0]])
    shapes = [probe.shapes.get(name, ()) for name in node.input]
    if node.op_type == "Conv":
        return float(out * math.prod(shapes[1][1:]))
    if node.op_type == "ConvTranspose":
        return float(math.prod(shapes[0]) * math.prod(shapes[1][1:]))
    if node.op_type == "MatMul" and shapes[0]:
        return float(out * shapes[0][-1])
    if node.op_type == "Gemm":
        return float(out * shapes[0][0 if attributes(node).get("transA") else 1])
    return 0.0
