"""Identity and Dropout (as inference runs it) are removed, and their readers read what they read."""

from __future__ import annotations

import onnx

from ..graph import node_inputs, op_key


def remove_identities(model: onnx.ModelProto) -> None:
    graph = model.graph
    outputs = {o.name for o in graph.output}
    inner = {name for node in graph.node for name in node_inputs(node) if name not in node.input}
    alias: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = alias.get(name, name)
        passes = op_key(node) in (("", "Identity"), ("", "Dropout")) and not _trains(node)
        unused = all(not o or not _is_read(graph, o, outputs) for o in node.output[1:])
        if passes and unused and node.output[0] not in outputs | inner:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)


def _trains(node: onnx.NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])  # Dropout's training_mode


def _is_read(graph: onnx.GraphProto, name: str, outputs: set[str]) -> bool:
    return name in outputs or any(name in node_inputs(node) for node in graph.node)
