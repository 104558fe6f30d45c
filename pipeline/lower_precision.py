"""Precision is part of the ONNX file: casts to float16 or bfloat16 around what is worth it.

Convolutions and matrix products run in the lower precision, and what only moves or combines their results follows
them. All else stays in float32: norms and reductions, for their statistics; what becomes a position or an index (the
grid of GridSample, what is rounded or cast to an integer), with the product that makes it; and what decides. Plugins
compute in float32, whatever they read. Inputs and outputs stay float32, but for those that are named.

The converters that onnx's neighbours offer know float16 alone, keep ops by type and not by what their result is for, or
need torch and onnxruntime-gpu; so this one is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from ..export.values import graphs
from .graph import DOMAIN, node_inputs

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"}
# fmt: off
_FOLLOWING = {
    "Abs", "Add", "AveragePool", "Clip", "Concat", "DepthToSpace", "Div", "Dropout", "Elu", "Erf", "Expand",
    "Flatten", "Gather", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "MaxPool", "Min", "Mish",
    "Mul", "Neg", "PRelu", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "SpaceToDepth", "Split",
    "Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where",
}
# fmt: on
_FIRST_ALONE = {"Resize"}  # its scales are float32, whatever it resizes
# Of plugins, the inputs that may be float16 together, where the first is there as such; the first output follows.
_PLUGINS = {"EnergyMask": (0,), "DeformableSample": (0, 3)}
_ROUNDING = {"Floor", "Round", "Ceil"}
_CLIPPED = {
    "Add",
    "Where",
    "Max",
    "Min",
    "Clip",
}  # what is too large for the type stands for none, as in masks
_BOUNDING = {"Clip", "Max", "Min", "Div"}  # a small number keeps what is divided by from zero
# The least normal number and the largest one.
_RANGE = {
    TensorProto.FLOAT16: (2.0**-14, 65504.0),
    TensorProto.BFLOAT16: (2.0**-126, (2 - 2.0**-7) * 2.0**127),
}


def lower_precision(
    model: onnx.ModelProto,
    precision: str,
    keep: Collection[str] = (),
    borders: Collection[str] = (),
    plugins: Collection[str] = tuple(_PLUGINS),
) -> onnx.ModelProto:
    """The model with its products in "fp16" or "bf16". `keep`: tensors whose nodes stay in float32. Inputs and outputs
    keep their types, but for `borders`, which have the lower one; choices keep theirs. `plugins`: ops of ai.foveate
    that read the lower type. Its weights must be in it; those that are read in the lower precision alone are stored
    so."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _lowering(made, precision, keep, borders, plugins).run(made.graph)
    return made


def tensors_made_lower(model: onnx.ModelProto, precision: str, keep: Collection[str] = ()) -> set[str]:
    """What `lower_precision` computes in the lower precision, without plugins, by the names in `model`."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    lowering = _lowering(made, precision, keep, (), ())
    lowering.run(made.graph)
    return lowering.made


def _lowering(
    model: onnx.ModelProto,
    precision: str,
    keep: Collection[str],
    borders: Collection[str],
    plugins: Collection[str],
) -> _Lowering:
    kept = {*keep, *locations(model.graph)}
    return _Lowering(precision, kept, _floats(model), frozenset(borders), frozenset(plugins))


def cast_inputs(model: onnx.ModelProto) -> None:
    """Has a model whose inputs are in a lower precision take them in float32, and cast them itself."""
    types = {value.name: value.type.tensor_type for value in model.graph.input}
    casts = {name: f"{name}.given" for name, kind in types.items() if kind.elem_type in KINDS.values()}
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        node.input[:] = [casts.get(name, name) for name in node.input]
    for name, made in casts.items():
        cast = helper.make_node("Cast", [name], [made], to=types[name].elem_type)
        model.graph.node.insert(0, cast)
        types[name].elem_type = TensorProto.FLOAT


def decision_tensors(program: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """What the nodes that decide read, and what they make."""
    deciding = [
        n for n in program.graph.node if n.domain == DOMAIN and n.op_type in ("EnergyMask", "ExitGate")
    ]
    return {i for n in deciding for i in n.input}, {o for n in deciding for o in n.output if o}


def between(graph: onnx.GraphProto, read: Collection[str], made: Iterable[str]) -> set[str]:
    """The tensors that lie between these, those made among them: a decision's body, wherever it was inlined."""
    return set(_behind(graph, made, lambda _, name: name in read))


def locations(graph: onnx.GraphProto) -> Iterator[str]:
    """What becomes a position or an index, up to the product that makes it."""
    for sub in graphs(graph):
        ends = [n.input[1] for n in sub.node if n.op_type == "GridSample"]
        ends += [n.input[2] for n in sub.node if n.op_type == "DeformableSample"]
        ends += [n.input[0] for n in sub.node if n.op_type in _ROUNDING or _to_whole(n)]
        yield from _behind(sub, ends, lambda node, _: node.op_type in PRODUCTS)


def _is_plugin(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type in _PLUGINS


def _may_follow(node: onnx.NodeProto, position: int) -> bool:
    if _is_plugin(node):
        return position in _PLUGINS[node.op_type]
    return position == 0 or node.op_type not in _FIRST_ALONE


def _to_whole(node: onnx.NodeProto) -> bool:
    whole = (TensorProto.INT32, TensorProto.INT64)
    return node.op_type == "Cast" and any(a.name == "to" and a.i in whole for a in node.attribute)


def _behind(
    graph: onnx.GraphProto, ends: Iterable[str], stop: Callable[[onnx.NodeProto, str], bool]
) -> Iterator[str]:
    """The tensors that these are made of, themselves first; not what makes input `name` where `stop(node, name)`."""
    producer = {o: n for n in graph.node for o in n.output}
    pending, seen = list(ends), set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name not in producer:
            continue
        seen.add(name)
        yield name
        node = producer[name]
        pending += [i for i in node_inputs(node) if not stop(node, i)]


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors, also within branches."""
    light = onnx.ModelProto(ir_version=model.ir_version, functions=model.functions)
    light.opset_import.extend(model.opset_import)
    graph = model.graph
    light.graph.name = graph.name or "graph"
    light.graph.node.extend(graph.node)
    light.graph.output.extend(graph.output)
    initial = {i.name for i in graph.initializer}
    light.graph.input.extend(i for i in graph.input if i.name not in initial)
    for tensor in graph.initializer:  # types are enough
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        light.graph.input.append(value)
    for sub in graphs(light.graph):
        made = [o for n in sub.node if _is_plugin(n) for o in n.output if o]
        sub.value_info.extend(helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in made)
    if light.functions:  # of a call nothing is inferred: its body tells what it makes
        light = onnx.inliner.inline_local_functions(light)
    inferred = onnx.shape_inference.infer_shapes(light).graph
    return {
        value.name
        for sub in graphs(inferred)
        for value in (*sub.input, *sub.value_info, *sub.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def _constants(graph: onnx.GraphProto, scope: str) -> Iterator[tuple[str, TensorProto]]:
    """The float32 initializers that are no choices, and what nodes Constant give; by name, each under a name that no
    other branch has."""
    choices = {i.name for i in graph.input}
    found = {i.name: i for i in graph.initializer if i.name not in choices}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            (given,) = node.attribute
            if given.name == "value":
                found[node.output[0]] = given.t
            elif given.name in ("value_float", "value_floats"):
                values = np.array(helper.get_attribute_value(given), np.float32)
                found[node.output[0]] = numpy_helper.from_array(values)
    for name, tensor in found.items():
        if tensor.data_type == TensorProto.FLOAT:
            if tensor.name != f"{scope}{name}":
                own = TensorProto()
                own.CopyFrom(tensor)
                own.name = f"{scope}{name}"
                tensor = own
            yield name, tensor


def _sizes(weight: TensorProto) -> np.ndarray:
    """The magnitudes of its numbers that are finite and not zero."""
    sizes = np.abs(numpy_helper.to_array(weight))
    return sizes[np.isfinite(sizes) & (sizes > 0)]


class _Lowering:
    """Every float32 tensor may be there in both types: in float32 by its own name, but for `borders`, which have it in
    the lower one. `made` is what is computed in that, outside of branches."""

    def __init__(
        self, precision: str, kept: Set[str], floats: Set[str], borders: Set[str], plugins: Set[str]
    ):
        self.kind, self.kept, self.floats = KINDS[precision], kept, floats
        self.borders, self.plugins = borders, plugins
        self.suffix = f".{precision}"
        self.least, self.largest = _RANGE[self.kind]
        self.weights: dict[str, TensorProto] = {}
        self.lowered: dict[str, TensorProto] = {}
        self.made: set[str] = set()
        self.quotients: set[str] = set()  # in float32, of what may be near zero

    def run(self, graph: onnx.GraphProto) -> None:
        choices = {i.name for i in graph.input}
        for value in (*graph.input, *graph.output):
            if value.name in self.borders:
                value.type.tensor_type.elem_type = self.kind
        given = {i.name: i.name for i in graph.input if i.name in self.borders}
        self._graph(graph, "", {}, given)
        read = {name for sub in graphs(graph) for n in sub.node for name in n.input}
        read |= {o.name for sub in graphs(graph) for o in sub.output}
        left = [i for i in graph.initializer if i.name in read or i.name in choices]
        del graph.initializer[:]
        graph.initializer.extend([*left, *self.lowered.values()])

    def _graph(
        self, graph: onnx.GraphProto, scope: str, high: Mapping[str, str], low: Mapping[str, str]
    ) -> None:
        """`high`, `low`: by what names the outer graphs have tensors in either type; their own, where nothing says."""
        inner = _Scope(graph, scope, {**high}, {**low})
        self.weights.update(_constants(graph, scope))
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            lower = self._is_lower(node, inner.low)
            if node.op_type in ("Div", "Reciprocal") and not lower:
                self.quotients.update(node.output)
            for position, name in enumerate(node.input):
                if name in self.floats:
                    follows = lower and _may_follow(node, position)
                    node.input[position] = self._lower(name, inner) if follows else self._float32(name, inner)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._graph(attribute.g, f"{scope}{node.name}.{attribute.name}.", inner.high, inner.low)
            for position, name in enumerate(node.output):
                if lower and name in self.floats and not (position and _is_plugin(node)):
                    inner.low[name] = node.output[position] = self._low_name(name, scope)
                    self.made.update([name] if not scope else [])
                elif name in self.borders and not scope:
                    inner.high[name] = node.output[position] = self._high_name(name, scope)
            graph.node.append(node)
        for output in graph.output:  # also of a branch, for the other branch's is float32, too
            if output.name in self.floats:
                border = not scope and output.name in self.borders
                output.name = (self._lower if border else self._float32)(output.name, inner)

    def _is_lower(self, node: onnx.NodeProto, low: Mapping[str, str]) -> bool:
        if _is_plugin(node):
            takes = node.op_type in self.plugins and self.kind == TensorProto.FLOAT16
            return takes and node.input[0] in low
        if node.domain not in ("", "ai.onnx") or not self.kept.isdisjoint(node.output):
            return False
        if node.op_type in PRODUCTS:
            fit = all(self._largest(name) <= self.largest for name in node.input)
            return fit and not self.floats.isdisjoint(node.output)
        return (
            node.op_type in _FOLLOWING
            and any(name in low for name in node.input)
            and self._divides_safely(node)
            and all(self._holds(node, position) for position in range(len(node.input)))
        )

    def _divides_safely(self, node: onnx.NodeProto) -> bool:
        """What is computed in float32 to divide by, as x + 1e-8, is zero in float16; its reciprocal is infinite."""
        if self.kind != TensorProto.FLOAT16:
            return True
        if node.op_type == "Div":
            return node.input[1] in self.weights
        return node.op_type != "Mul" or self.quotients.isdisjoint(node.input)

    def _holds(self, node: onnx.NodeProto, position: int) -> bool:
        """Whether the lower type has the constant that a node reads there. Small numbers beside larger ones are
        rounded, as in weights; alone they matter."""
        weight = self.weights.get(node.input[position])
        if weight is None or not _may_follow(node, position):
            return True
        sizes = _sizes(weight)
        if not sizes.size:
            return True
        smallest = sizes.min() if node.op_type in _BOUNDING else sizes.max()
        return smallest >= self.least and (sizes.max() <= self.largest or node.op_type in _CLIPPED)

    def _largest(self, name: str) -> float:
        """Of the weights of a product; 0 for what is none."""
        return float(_sizes(self.weights[name]).max(initial=0)) if name in self.weights else 0.0

    def _lower(self, name: str, scope: _Scope) -> str:
        if name in self.weights:
            weight = self.weights[name]
            if weight.name not in self.lowered:
                self.lowered[weight.name] = self._stored(weight)
            return self.lowered[weight.name].name
        if name not in scope.low:
            scope.low[name] = self._low_name(name, scope.prefix)
            scope.cast(scope.high.setdefault(name, name), scope.low[name], self.kind)
        return scope.low[name]

    def _float32(self, name: str, scope: _Scope) -> str:
        if name in scope.low and name not in scope.high:
            scope.high[name] = self._high_name(name, scope.prefix)
            scope.cast(scope.low[name], scope.high[name], TensorProto.FLOAT)
        return scope.high.get(name, name)

    def _low_name(self, name: str, scope: str) -> str:
        return name if name in self.borders and not scope else f"{scope}{name}{self.suffix}"

    def _high_name(self, name: str, scope: str) -> str:
        return f"{scope}{name}.fp32" if name in self.borders else f"{scope}{name}"

    def _stored(self, weight: TensorProto) -> TensorProto:
        """Finite numbers stay finite: a large one stands for none, as −3.4e38 in masks of attention."""
        values = numpy_helper.to_array(weight)
        clipped = np.clip(values, -self.largest, self.largest)
        values = np.where(np.isfinite(values), clipped, values).astype(np.float32)
        lower = values.astype(helper.tensor_dtype_to_np_dtype(self.kind))
        return numpy_helper.from_array(lower, weight.name + self.suffix)


@dataclass
class _Scope:
    """A graph that is being rewritten, and by what names it has tensors in either type."""

    graph: onnx.GraphProto
    prefix: str
    high: dict[str, str]
    low: dict[str, str]

    def cast(self, name: str, to: str, kind: int) -> None:
        self.graph.node.append(helper.make_node("Cast", [name], [to], name=f"cast {to}", to=kind))
