"""Cutting a part of a graph out as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from ..runtime.manifest import TensorSpec
from .graph import Graph, node_inputs, op_key
from .lean import lean


def extract(
    graph: Graph,
    nodes: Iterable[str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    name: str,
    same: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The named nodes, with the constants, shape arithmetic, choices and function bodies that they need. `same`:
    tensors that none of them makes, and those that stand for them.

    Weights are shared with the graph's model, not copied, until the result is changed."""
    wanted = set(nodes)
    wanted |= graph.free_closure(graph.by_name[n] for n in wanted)
    kept = [node for node in graph.nodes if node.name in wanted]
    for tensor, other in (same or {}).items():
        readers = [i for i, node in enumerate(kept) if tensor in node_inputs(node)]
        kept.insert(min(readers, default=len(kept)), helper.make_node("Identity", [other], [tensor]))
    read = {i for node in kept for i in node_inputs(node)}
    source = graph.model.graph
    values = [describe(spec) for spec in inputs] + [
        i for i in source.input if i.name in read & {*graph.choices}
    ]
    part = onnx.GraphProto(name=name)
    part.node.extend(kept)
    part.input.extend(values)
    part.output.extend(describe(spec) for spec in outputs)
    part.initializer.extend(i for i in source.initializer if i.name in read)
    model = onnx.ModelProto(ir_version=graph.model.ir_version, producer_name="foveate", graph=part)
    model.opset_import.extend(graph.model.opset_import)
    used = {op_key(node) for node in kept}
    model.functions.extend(f for f in graph.model.functions if (f.domain, f.name) in used)
    return lean(model)


def describe(spec: TensorSpec) -> onnx.ValueInfoProto:
    """A graph input or output. A dim "?" is left open."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, [None if d == "?" else d for d in spec.shape])
