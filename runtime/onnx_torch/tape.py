"""A program as torch runs it on inputs of one shape: what depends on shapes alone is computed when it is recorded, and
what is left is a list of calls that may be captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor

from ..errors import EngineError
from .operators import OPERATORS
from .protos import TYPES, attribute, constant, to_tensor
from .registry import Attributes, refused
from .sizes import shape


@dataclass(frozen=True)
class Known:
    """A value that is the same for all inputs of these shapes, in this machine's memory."""

    value: Tensor


_OWN = frozenset({"Constant", "If", "Shape", "Size"})  # computed when a program is recorded


def unknown(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """The weights of a type that torch's backend does not know, and the nodes of such an operator, also of functions
    and branches: which one, and its type or operator."""
    for weight in model.graph.initializer:
        if weight.data_type not in TYPES:
            yield f"tensor {weight.name}", onnx.TensorProto.DataType.Name(weight.data_type)
    called = {(f.domain, f.name) for f in model.functions}
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for node in _unknown(nodes, called):
            yield f"node {node.name or node.output[0]}", f"{node.domain or 'ai.onnx'}::{node.op_type}"


def _unknown(nodes: Iterable[onnx.NodeProto], called: set[tuple[str, str]]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        known = _is_stock(node) and (node.op_type in _OWN or node.op_type in OPERATORS)
        if not known and (node.domain, node.op_type) not in called:
            yield node
        for branch in (a.g for a in node.attribute if a.HasField("g")):
            yield from _unknown(branch.node, called)


def _is_stock(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


Functions = Mapping[tuple[str, str], onnx.FunctionProto]
Weights = Mapping[str, tuple[Known, Tensor]]  # by name, with what they are on the device


@dataclass
class _Call:
    """Arguments: ("slot", n) or ("value", anything). `drops`: slots that nothing later reads."""

    run: Callable[..., Any]
    arguments: list[tuple[str, Any]]
    outputs: list[int]
    drops: list[int] = field(default_factory=list)


class Tape:
    """`tape(inputs) -> outputs`, tensors on the device, in the order of `Recorder`'s names."""

    def __init__(self, calls: Sequence[_Call], inputs: int, outputs: Sequence[tuple[str, Any]]):
        self._calls, self._inputs, self._outputs = calls, inputs, outputs
        alive = {n for kind, n in outputs if kind == "slot"}
        for call in reversed(calls):
            used = {n for kind, n in call.arguments if kind == "slot"} | set(call.outputs)
            call.drops = sorted(used - alive)
            alive |= used

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        slots: dict[int, Tensor] = dict(enumerate(inputs))
        for call in self._calls:
            made = call.run(*(slots[v] if kind == "slot" else v for kind, v in call.arguments))
            for n, value in zip(call.outputs, made if isinstance(made, tuple) else (made,), strict=False):
                slots[n] = value
            for n in call.drops:
                slots.pop(n, None)
        return [slots[v] if kind == "slot" else v.clone() for kind, v in self._outputs]


class Recorder:
    """Runs a graph once and writes down what it did."""

    def __init__(self, functions: Functions, weights: Weights, device: torch.device):
        self._functions, self._weights, self._device = functions, weights, device
        self._calls: list[_Call] = []
        self._slots = 0
        # By the id of a known value, with itself, for its id to stay its own.
        self._moved = {id(known.value): (known.value, moved) for known, moved in weights.values()}

    def record(self, graph: onnx.GraphProto, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> Tape:
        """`feeds`, on the device, in the order that the tape takes them in. Weights and what nodes name are the
        graph's."""
        scope: dict[str, _Value] = {name: self._slot(tensor) for name, tensor in feeds.items()}
        inputs = self._slots
        for name, (known, _) in self._weights.items():
            scope.setdefault(name, known)
        self._nodes(graph.node, scope, {})
        found = [self._argument(scope[name], host=False) for name in outputs]
        return Tape(self._calls, inputs, found)

    def _slot(self, tensor: Tensor) -> _Slot:
        self._slots += 1
        return _Slot(self._slots - 1, tensor)

    def _nodes(
        self,
        nodes: Sequence[onnx.NodeProto],
        scope: dict[str, _Value],
        given: Mapping[str, onnx.AttributeProto],
    ) -> None:
        """`given`: of the function whose body they are."""
        for node in nodes:
            inputs = [scope[name] if name else None for name in node.input]
            attributes = _resolved(node, given)
            function = self._functions.get((node.domain, node.op_type))
            if function is not None:
                made = self._function(function, inputs, attributes)
            elif node.op_type == "If":
                made = self._branch(node, inputs, attributes, scope, given)
            else:
                made = self._run(node, inputs, {name: attribute(a) for name, a in attributes.items()})
            scope.update((name, value) for name, value in zip(node.output, made, strict=False) if name)

    def _function(
        self,
        function: onnx.FunctionProto,
        inputs: list[_Value | None],
        given: Mapping[str, onnx.AttributeProto],
    ) -> list[_Value]:
        defaults = {a.name: a for a in function.attribute_proto}
        padded = [*inputs, *[None] * (len(function.input) - len(inputs))]
        scope: Any = dict(zip(function.input, padded, strict=True))
        self._nodes(function.node, scope, {**defaults, **given})
        return [scope[name] for name in function.output]

    def _branch(
        self,
        node: onnx.NodeProto,
        inputs: list[_Value | None],
        attributes: Mapping[str, onnx.AttributeProto],
        scope: dict[str, _Value],
        given: Mapping[str, onnx.AttributeProto],
    ) -> list[_Value]:
        condition = inputs[0]
        if not isinstance(condition, Known):
            raise _refused(node, "a condition that depends on the image", "one that its size decides")
        graph = attributes["then_branch" if bool(condition.value) else "else_branch"].g
        inner = {**scope, **{i.name: Known(to_tensor(i)) for i in graph.initializer}}
        self._nodes(graph.node, inner, given)
        return [inner[output.name] for output in graph.output]

    def _run(self, node: onnx.NodeProto, inputs: list[_Value | None], attributes: Attributes) -> list[_Value]:
        if node.op_type == "Constant":
            return [Known(constant(attributes))]
        if node.op_type in ("Shape", "Size"):
            return [Known(_sizes(node.op_type, inputs[0], attributes))]
        found = OPERATORS.get(node.op_type) if _is_stock(node) else None
        if found is None:
            raise _refused(
                node, f"{node.domain or 'ai.onnx'}::{node.op_type}", "operators that this backend knows"
            )
        known = all(value is None or isinstance(value, Known) for value in inputs)
        arguments: list[tuple[str, Any]] = [("value", attributes)]
        tensors: list[Any] = [attributes]
        for position, value in enumerate(inputs):
            kind, what = self._argument(value, position in found.host, stays=known)
            if kind == "unknown":
                raise _refused(
                    node, f"input {position} that depends on the image", "one that its size decides"
                )
            arguments.append((kind, what))
            tensors.append(value.tensor if isinstance(value, _Slot) else what)
        made = found.run(*tensors)
        made = made if isinstance(made, tuple) else (made,)
        if known:
            return [Known(value) for value in made]
        slots = [self._slot(value) for value in made]
        self._calls.append(_Call(found.run, arguments, [slot.number for slot in slots]))
        return list(slots)

    def _argument(self, value: _Value | None, host: bool, stays: bool = False) -> tuple[str, Any]:
        """`stays`: in this machine's memory."""
        if value is None:
            return "value", None
        if isinstance(value, Known):
            return "value", value.value.tolist() if host else value.value if stays else self._on_device(
                value.value
            )
        return ("unknown", None) if host else ("slot", value.number)

    def _on_device(self, value: Tensor) -> Tensor:
        if id(value) not in self._moved:
            self._moved[id(value)] = value, value.to(self._device)
        return self._moved[id(value)][1]


@dataclass(frozen=True)
class _Slot:
    """What a call makes, or an input; `tensor` is what it was when it was recorded."""

    number: int
    tensor: Tensor


_Value = Known | _Slot


def _sizes(op: str, value: _Value | None, attributes: Attributes) -> Tensor:
    assert value is not None
    tensor = value.value if isinstance(value, Known) else value.tensor
    return torch.tensor(shape(op, attributes, tensor), dtype=torch.int64)


def _resolved(
    node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]
) -> dict[str, onnx.AttributeProto]:
    """Those that refer to an attribute of the function are that one; those that it has not are left out."""
    found = {a.name: given.get(a.ref_attr_name) if a.ref_attr_name else a for a in node.attribute}
    return {name: attribute for name, attribute in found.items() if attribute is not None}


def _refused(node: onnx.NodeProto, got: str, expected: str) -> EngineError:
    return refused(f"node {node.name or node.output[0]} ({node.op_type})", got, expected)
