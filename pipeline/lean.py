"""What an engine runs of a program: stock operators, and of those only the ones that an output needs."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.inliner
import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def lean(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined, without nodes that no output depends on, and without choices that only
    those read. onnxruntime runs dead nodes: the energy of a mask, which few programs give out, takes longer than its
    logits."""
    if not model.functions:
        return model
    inlined = onnx_ir.from_proto(onnx.inliner.inline_local_functions(_with_defaults(model)))
    RemoveUnusedNodesPass()(inlined)
    small = onnx_ir.to_proto(inlined)
    read = {name for node in small.graph.node for name in node.input} | {o.name for o in small.graph.output}
    unused = {i.name for i in model.graph.initializer} - read
    _drop(small.graph.input, unused)
    _drop(small.graph.initializer, unused)
    return small


def _with_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose calls give every attribute: the inliner leaves out what a call leaves out, default or not."""
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    defaults = {(f.domain, f.name): f.attribute_proto for f in model.functions}
    for node in complete.graph.node:
        given = {a.name for a in node.attribute}
        missing = [a for a in defaults.get((node.domain, node.op_type), ()) if a.name not in given]
        node.attribute.extend(missing)
    return complete


def _drop(values: Any, names: set[str]) -> None:
    """From a repeated field, in place."""
    for value in [v for v in values if v.name in names]:
        values.remove(value)
