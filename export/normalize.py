"""Give the ai.foveate nodes of an ONNX model the one form that the pipeline reads.

Each pass mends one thing and leaves a model that is in form already as it is. The order is that of PASSES.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ..runtime.errors import ProgramError
from .domain import DOMAIN, STOCK_OPSET, VERSION, DomainOp, domain_op
from .values import all_names, graphs, rename, unused_name

Decided = list[tuple[onnx.NodeProto, DomainOp]]


def decisions(model: onnx.ModelProto) -> Decided:
    """The nodes of domain ai.foveate in graph order, each with its op. An unknown op is a ProgramError."""
    nodes = [node for part in graphs(model.graph) for node in part.node if node.domain == DOMAIN]
    return [(node, domain_op(node.op_type, node.name)) for node in nodes]


def normalize(model: onnx.ModelProto) -> None:
    """Run all passes on the model, in place. Raises ProgramError with what the file's maker must mend."""
    decided = decisions(model)
    for apply in PASSES:
        apply(model, decided)


def check_versions(model: onnx.ModelProto, decided: Decided) -> None:
    """The domain is imported, in the version that this library knows."""
    found = {o.domain: o.version for o in model.opset_import}.get(DOMAIN)
    if decided and found != VERSION:
        raise ProgramError(
            f"opset import of {DOMAIN}",
            got="none" if found is None else f"version {found}",
            expected=f"version {VERSION}",
            fix="add it with onnx.helper.make_opsetid"
            if found is None
            else "update foveate, or export again",
        )


def check_inputs(model: onnx.ModelProto, decided: Decided) -> None:
    """Every input of a decision is given, and every attribute is one the op has."""
    for node, op in decided:
        missing = [n for i, n in enumerate(op.inputs) if i >= len(node.input) or not node.input[i]]
        foreign = [a.name for a in node.attribute if a.name not in op.schema.attributes]
        if missing or foreign or len(node.input) > len(op.inputs):
            raise ProgramError(
                f"node {node.name or '(unnamed)'!r} ({op.name})",
                got=f"{len(node.input)} inputs" + (f" and attributes {foreign}" if foreign else ""),
                expected=f"inputs {', '.join(op.inputs)}; attributes {', '.join(op.schema.attributes)}",
                fix=f"give {', '.join(missing)}" if missing else "remove what the op does not have",
            )


def fill_outputs(model: onnx.ModelProto, decided: Decided) -> None:
    """A decision has all its outputs, also those that its maker left out."""
    taken = all_names(model.graph)
    for node, op in decided:
        node.output.extend([""] * (len(op.outputs) - len(node.output)))
        for index, output in enumerate(op.outputs):
            node.output[index] = node.output[index] or unused_name(
                f"{node.name or op.prefix}.{output}", taken
            )


def name_decisions(model: onnx.ModelProto, decided: Decided) -> None:
    """Decisions have unique names (mask0, mask1, … where unnamed), and their outputs are <name>.<output>, but
    for the model's own outputs, which keep the names that its users know."""
    seen: set[str] = set()
    fixed = {o.name for o in model.graph.output}
    for node, op in decided:
        if not node.name or node.name in seen:
            others = {n.name for n, _ in decided}
            node.name = next(
                n for n in (f"{op.prefix}{i}" for i in range(len(decided) + 1)) if n not in others
            )
        seen.add(node.name)
    wanted = {
        o: f"{n.name}.{name}" for n, op in decided for o, name in zip(n.output, op.outputs, strict=True)
    }
    wanted = {old: new for old, new in wanted.items() if old != new and old not in fixed}
    rename(model.graph, _without_clashes(model.graph, wanted))


def own_parameters(model: onnx.ModelProto, decided: Decided) -> None:
    """A decision's constant inputs are initializers of its own, called <name>.<input>; choices among them are
    also graph inputs, so that a run can feed others. Exporters merge equal constants; these must not be."""
    constants = _constants(model.graph)
    inputs = {i.name for i in model.graph.input}
    for node, op in decided:
        for index, name in enumerate(op.inputs):
            value = constants.get(node.input[index])
            if value is None:
                continue
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            tensor.name = f"{node.name}.{name}"
            if index in op.choices:
                _check_choice(node, op, name, tensor)
                shape = (-1,) if op.lists else ()
                tensor.CopyFrom(
                    numpy_helper.from_array(numpy_helper.to_array(value).reshape(shape), tensor.name)
                )
            _put_initializer(model.graph, tensor)
            node.input[index] = tensor.name
            if index in op.choices and tensor.name not in inputs:
                model.graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
                inputs.add(tensor.name)
    _drop_unused(model.graph, set(constants))


def add_bodies(model: onnx.ModelProto, decided: Decided) -> None:
    """Each op that is used has this library's function body, and only those have one.

    A body's stock opset must be the model's; its operators mean the same in every later version."""
    kept = [f for f in model.functions if f.domain != DOMAIN]
    ops = {op.name: op for _, op in decided}
    bodies = [op.function([n for n, _ in decided if n.op_type == name]) for name, op in ops.items()]
    version = _stock_opset(model)
    for stock in (o for body in bodies for o in body.opset_import if o.domain == ""):
        stock.version = version
    del model.functions[:]
    model.functions.extend([*kept, *bodies])
    if bodies:
        model.ir_version = max(model.ir_version, 8)  # the first with functions


def check_stock_opset(model: onnx.ModelProto, decided: Decided) -> None:
    """A runtime that inlines a body reads it by the model's own stock opset."""
    found = _stock_opset(model)
    if decided and found < STOCK_OPSET:
        raise ProgramError(
            "opset of the stock operators",
            got=str(found),
            expected=f"at least {STOCK_OPSET}",
            fix="export the model again with a newer opset, or convert it with onnx.version_converter",
        )


PASSES = (
    check_versions,
    check_stock_opset,
    check_inputs,  # before anything reads inputs by position
    fill_outputs,  # before names are given to outputs
    name_decisions,  # before parameters, which are called after their decision
    own_parameters,
    add_bodies,
)


def _stock_opset(model: onnx.ModelProto) -> int:
    versions = {o.domain: o.version for o in model.opset_import}
    return versions.get("", versions.get("ai.onnx", STOCK_OPSET))


def _without_clashes(graph: onnx.GraphProto, wanted: dict[str, str]) -> dict[str, str]:
    """Whoever has a wanted name already, gets another."""
    taken = all_names(graph)
    clashes = (set(wanted.values()) & taken) - set(wanted)
    return wanted | {name: unused_name(f"{name}_2", taken) for name in clashes}


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers, and the values of Constant nodes, by name."""
    found = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            attribute = node.attribute[0]
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name in ("value_float", "value_floats"):
                value = numpy_helper.from_array(np.asarray(value, np.float32))
            if isinstance(value, onnx.TensorProto):
                found[node.output[0]] = value
    return found


def _check_choice(node: onnx.NodeProto, op: DomainOp, name: str, value: onnx.TensorProto) -> None:
    fits = len(value.dims) == 1 if op.lists else numpy_helper.to_array(value).size == 1
    if value.data_type != onnx.TensorProto.FLOAT or not fits:
        raise ProgramError(
            f"choice {name!r} of node {node.name!r}",
            got=f"{onnx.TensorProto.DataType.Name(value.data_type)} {list(value.dims)}",
            expected="float32 with one axis" if op.lists else "a float32 scalar",
            fix="give the node such an initializer",
        )


def _put_initializer(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    for existing in graph.initializer:
        if existing.name == tensor.name:
            existing.CopyFrom(tensor)
            return
    graph.initializer.append(tensor)


def _drop_unused(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove those initializers and Constant nodes that nothing reads any more."""
    used = {name for part in graphs(graph) for node in part.node for name in node.input}
    used |= {o.name for o in graph.output} | {i.name for i in graph.input}
    for initializer in [i for i in graph.initializer if i.name in names - used]:
        graph.initializer.remove(initializer)
    for node in [n for n in graph.node if n.op_type == "Constant" and n.output[0] in names - used]:
        graph.node.remove(node)
