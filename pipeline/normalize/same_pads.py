"""A Pad whose widths are computed for SAME padding of a strided op gets the widths of whole cells.

TensorFlow-style networks pad by ⌈n / stride⌉ outputs, so the widths depend on the size modulo the stride. A Pad is
taken for one only if its computed widths follow that formula at every probed size, of which one must leave a remainder.
"""

from __future__ import annotations

import numpy as np
import onnx

from ..graph import SHAPE, Graph, attributes, op_key
from ..probe import Probe, Probes
from .explicit_pads import KERNEL_OPS, weight_shape
from .shape_values import add_value


def same_pads(model: onnx.ModelProto, probes: Probes) -> set[str]:
    """Changes the model; gives the names of the Pads that hold at whole cells only."""
    graph = Graph(model)
    added: set[str] = set()
    changed = set()
    for node in model.graph.node:
        if op_key(node) != ("", "Pad") or len(node.input) < 2 or graph.depends.get(node.input[1]) != SHAPE:
            continue
        if (len(node.input) > 3 and node.input[3]) or attributes(node).get("mode", "constant") != "constant":
            continue
        readers = [n for n in graph.nodes if node.output[0] in n.input]
        spans = _spans(readers[0], graph, probes) if len(readers) == 1 else None
        if spans is not None and _follows(node, spans, probes):
            (high, wide), (tall, broad) = spans
            pads = [_same(step, reach, step) for reach, step in ((high, tall), (wide, broad))]
            value = np.array([0, 0, *(p[0] for p in pads), 0, 0, *(p[1] for p in pads)], np.int64)
            node.input[1] = add_value(model, f"{node.output[0]}@pads", value, added)
            changed.add(node.name)
    return changed


Spans = tuple[tuple[int, int], tuple[int, int]]  # reach of the kernel, and stride, along (height, width)


def _spans(reader: onnx.NodeProto, graph: Graph, probes: Probes) -> Spans | None:
    """Of an op on maps [N, C, H, W] that does not pad by itself."""
    given = attributes(reader)
    if op_key(reader)[0] or reader.op_type not in KERNEL_OPS or any(given.get("pads", [])):
        return None
    kernel = given.get("kernel_shape") or weight_shape(graph, reader, probes)
    if kernel is None or len(kernel) != 2 or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    dilations, strides = given.get("dilations", [1, 1]), given.get("strides", [1, 1])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return (reach[0], reach[1]), (strides[0], strides[1])


def _same(size: int, reach: int, stride: int) -> tuple[int, int]:
    """Widths before and after that give ⌈size / stride⌉ outputs."""
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def _follows(node: onnx.NodeProto, spans: Spans, probes: Probes) -> bool:
    remainders: list[set[int]] = [set(), set()]
    for probe in probes.runs:
        sizes, widths = _measured(node, probe)
        for axis, (reach, stride) in enumerate(zip(*spans, strict=True)):
            if sizes is None or widths[axis] != _same(sizes[axis], reach, stride):
                return False
            remainders[axis].add(sizes[axis] % stride)
    return all(stride == 1 or len(found) > 1 for found, stride in zip(remainders, spans[1], strict=True))


def _measured(node: onnx.NodeProto, probe: Probe) -> tuple[tuple[int, ...] | None, list[tuple[int, int]]]:
    """Height and width of the input, and the widths before and after along both, in one run."""
    shape, value = probe.shapes.get(node.input[0], ()), probe.values.get(node.input[1])
    if len(shape) != 4 or value is None or len(value) != 8 or any(value[i] for i in (0, 1, 4, 5)):
        return None, []
    return shape[2:], [(int(value[2]), int(value[6])), (int(value[3]), int(value[7]))]
