"""What an engine runs of a program: stock operators, and of those only the ones that an output needs; and ops that
native kernels know, with bodies of stock operators."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.inliner
import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .graph import SAMPLE

REFERRED = 1024  # bytes: what is larger stays outside while a model is rewritten


def lean(model: onnx.ModelProto, natives: Collection[tuple[str, str]] = (SAMPLE,)) -> onnx.ModelProto:
    """The model with its functions inlined, but for what native kernels run, without nodes that no output depends on,
    and without choices that only those read. `natives`: domain and name of what they run. onnxruntime runs dead nodes:
    the energy of a mask, which few programs give out, takes longer than its logits."""
    functions = [key for f in model.functions if (key := (f.domain, f.name)) not in natives]
    if not functions:
        return model
    light = _with_defaults(_light(model))
    inlined = onnx_ir.from_proto(onnx.inliner.inline_selected_functions(light, functions))
    RemoveUnusedNodesPass()(inlined)
    values = inlined.graph.initializers.items()
    read = {name for name, value in values if value.uses() or value.is_graph_output()}
    small = onnx_ir.to_proto(inlined)
    unread = {i.name for i in model.graph.initializer} - read
    for choice in [i for i in small.graph.input if i.name in unread]:
        small.graph.input.remove(choice)
    del small.graph.initializer[:]
    small.graph.initializer.extend(i for i in model.graph.initializer if i.name in read)
    return small


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that refers to its weights: the inliner serialises what it gets, and protobuf ends at 2 GB."""
    fields = {f.name: v for f, v in model.ListFields() if f.name != "graph"}
    parts = {f.name: v for f, v in model.graph.ListFields() if f.name != "initializer"}
    weights = [_reference(i) for i in model.graph.initializer]
    return onnx.ModelProto(**fields, graph=onnx.GraphProto(**parts, initializer=weights))


def _reference(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.ByteSize() < REFERRED:
        return tensor
    place = onnx.StringStringEntryProto(key="location", value="outside")
    return onnx.TensorProto(
        name=tensor.name,
        dims=tensor.dims,
        data_type=tensor.data_type,
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[place],
    )


def _with_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, changed in place: its calls give every attribute. The inliner leaves out what a call leaves out, default
    or not."""
    defaults = {(f.domain, f.name): f.attribute_proto for f in model.functions}
    for node in model.graph.node:
        given = {a.name for a in node.attribute}
        missing = [a for a in defaults.get((node.domain, node.op_type), ()) if a.name not in given]
        node.attribute.extend(missing)
    return model
