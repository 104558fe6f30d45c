"""`auto_pad` becomes explicit pads, so that a window is padded as the image would be.

SAME with a stride pads by what is left of the size modulo the stride: the pads written are those of a size that is a
multiple of it, and the node is exact at whole cells only.
"""

from __future__ import annotations

import onnx

from ..graph import Graph, attributes, op_key
from ..probe import Probes

KERNEL_OPS = ("Conv", "MaxPool", "AveragePool", "LpPool")


def explicit_pads(model: onnx.ModelProto, probes: Probes) -> set[str]:
    graph = Graph(model)
    whole = set()
    for node in model.graph.node:
        mode = attributes(node).get("auto_pad", "NOTSET")
        if op_key(node)[0] or node.op_type not in KERNEL_OPS or mode not in ("SAME_UPPER", "SAME_LOWER"):
            continue
        kernel = attributes(node).get("kernel_shape") or weight_shape(graph, node, probes)
        if kernel is None:
            continue
        strides = attributes(node).get("strides", [1] * len(kernel))
        dilations = attributes(node).get("dilations", [1] * len(kernel))
        totals = [max((k - 1) * d + 1 - s, 0) for k, d, s in zip(kernel, dilations, strides, strict=True)]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = less + more if mode == "SAME_UPPER" else more + less
        rest = [a for a in node.attribute if a.name not in ("auto_pad", "pads")]
        copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in rest]
        del node.attribute[:]
        node.attribute.extend([*copies, onnx.helper.make_attribute("pads", pads)])
        if any(s > 1 for s in strides):
            whole.add(node.name)
    return whole


def weight_shape(graph: Graph, node: onnx.NodeProto, probes: Probes) -> list[int] | None:
    """The kernel's sizes of a Conv that does not name them."""
    if node.op_type != "Conv":
        return None
    shape = probes.shape(node.input[1])
    return None if shape is None else list(shape[2:])
