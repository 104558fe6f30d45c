"""Every node gets a unique name and every decision all its outputs: segments, reports and messages refer to them."""

from __future__ import annotations

import onnx

from ..graph import DOMAIN, op_key

_DECISION_OUTPUTS = {
    "EnergyMask": ("keep", "logits", "energy"),
    "ExitGate": ("depth", "scores"),
    "ExitSelect": ("chosen",),
}


def name_everything(model: onnx.ModelProto) -> None:
    taken: set[str] = set()
    for node in model.graph.node:
        first = next((o for o in node.output if o), "")
        name = node.name or f"{node.op_type}_{first}"
        while name in taken:
            name += "_"
        node.name = name
        taken.add(name)
        node.doc_string = ""
        del node.metadata_props[:]
        if op_key(node)[0] == DOMAIN:
            _complete_outputs(node)


def _complete_outputs(node: onnx.NodeProto) -> None:
    for i, output in enumerate(_DECISION_OUTPUTS.get(node.op_type, ())):
        if i == len(node.output):
            node.output.append("")
        node.output[i] = node.output[i] or f"{node.name}.{output}"
