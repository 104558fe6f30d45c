"""Precision is part of the ONNX file: casts to float16 or bfloat16 around what is worth it.

Borders of engines stay float32, so that engines of several backends fit together. Convolutions and matrix products run
in the lower precision, and what only moves or combines their results follows them. All else stays in float32: norms
and reductions, for their statistics; what becomes a position or an index (the grid of GridSample, what is rounded or
cast to an integer), with the product that makes it; and what decides. Plugins compute in float32, whatever they read.

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

from ...export.values import graphs
from ...runtime.errors import InputError
from ..graph import DOMAIN, node_inputs

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
QUANTIZED = {"int8": (TensorProto.INT8,), "fp8": (TensorProto.FLOAT8E4M3FN,)}

_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"}
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
_LARGEST = float(np.finfo(np.float16).max)


def lower_precision(model: onnx.ModelProto, precision: str, keep: Collection[str] = ()) -> onnx.ModelProto:
    """The model with its products in "fp16" or "bf16". `keep`: tensors whose nodes stay in float32. Inputs, outputs and
    choices keep their types. Its weights must be in it; those that are read in the lower precision alone are stored
    so."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = {*keep, *_locations(made.graph)}
    floats = _floats(model)
    _Lowering(KINDS[precision], kept, floats).run(made.graph)
    return made


def check_quantized(program: onnx.ModelProto, precision: str) -> None:
    """TensorRT quantizes nothing by itself any more (11 removed its calibrators). Raises InputError where the program
    is not quantized to "int8" or "fp8" already, which its own Q/DQ nodes then say, or not as TensorRT takes it."""
    nodes = [n for n in program.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    tensors = {i.name: i for i in program.graph.initializer}
    kinds = {tensors[name].data_type for node in nodes for name in node.input if name in tensors}
    for node in nodes:
        if why := _why_not_symmetric(node, tensors):
            raise InputError(
                f"target tensorrt:{precision}, node {node.name or node.output[0]} ({node.op_type})",
                got=why,
                expected="signed values of zero point 0, and float32 biases",
                fix="Quantize symmetrically: onnxruntime.quantization.quantize_static with activation_type=QInt8 and "
                'extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}.',
            )
    if kinds.isdisjoint(QUANTIZED[precision]):
        raise InputError(
            f"target tensorrt:{precision}",
            got=f"a program without QuantizeLinear and DequantizeLinear nodes of {precision}",
            expected="a program that is quantized in the ONNX file, symmetrically",
            fix=f"Quantize it first: foveate calibrate PROGRAM --precision {precision}; or take tensorrt:fp16.",
        )


def _why_not_symmetric(node: onnx.NodeProto, tensors: Mapping[str, TensorProto]) -> str:
    value, zero = tensors.get(node.input[0]), tensors.get(node.input[2] if len(node.input) > 2 else "")
    if value is not None and value.data_type == TensorProto.INT32:
        return "a bias of int32"
    if zero is not None and zero.data_type in (TensorProto.UINT8, TensorProto.UINT16):
        return "unsigned values"
    if zero is None or zero.data_location == TensorProto.EXTERNAL or not numpy_helper.to_array(zero).any():
        return ""
    return "a zero point other than 0"


def sums_of_bytes(graph: onnx.GraphProto) -> set[str]:
    """What layers make that are quantized: their operands are dequantized."""
    dequantized = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    layers = (n for n in graph.node if n.op_type in _PRODUCTS and not dequantized.isdisjoint(n.input))
    return {name for node in layers for name in node.output}


def decision_tensors(program: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """What the nodes that decide read, and what they make."""
    deciding = [
        n for n in program.graph.node if n.domain == DOMAIN and n.op_type in ("EnergyMask", "ExitGate")
    ]
    return {i for n in deciding for i in n.input}, {o for n in deciding for o in n.output if o}


def between(graph: onnx.GraphProto, read: Collection[str], made: Iterable[str]) -> set[str]:
    """The tensors that lie between these, those made among them: a decision's body, wherever it was inlined."""
    return set(_behind(graph, made, lambda _, name: name in read))


def _locations(graph: onnx.GraphProto) -> Iterator[str]:
    """What becomes a position or an index, up to the product that makes it."""
    for sub in graphs(graph):
        ends = [n.input[1] for n in sub.node if n.op_type == "GridSample"]
        ends += [n.input[2] for n in sub.node if n.op_type == "DeformableSample"]
        ends += [n.input[0] for n in sub.node if n.op_type in _ROUNDING or _to_whole(n)]
        yield from _behind(sub, ends, lambda node, _: node.op_type in _PRODUCTS)


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


class _Lowering:
    """Every float32 tensor may be there in both types. What is made as float32 has its own name in it."""

    def __init__(self, kind: int, kept: Set[str], floats: Set[str]):
        self.kind, self.kept, self.floats = kind, kept, floats
        self.suffix = next(f".{name}" for name, number in KINDS.items() if number == kind)
        self.weights: dict[str, TensorProto] = {}
        self.lowered: dict[str, TensorProto] = {}

    def run(self, graph: onnx.GraphProto) -> None:
        choices = {i.name for i in graph.input}
        self.weights = {i.name: i for i in graph.initializer if i.name not in choices}
        self._graph(graph, "", {}, {})
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
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            lower = self._is_lower(node, inner.low)
            for position, name in enumerate(node.input):
                if name in self.floats:
                    follows = lower and _may_follow(node, position)
                    node.input[position] = self._lower(name, inner) if follows else self._float32(name, inner)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._graph(attribute.g, f"{scope}{node.name}.{attribute.name}.", inner.high, inner.low)
            for position, name in enumerate(node.output):
                if lower and name in self.floats and not (position and _is_plugin(node)):
                    inner.low[name] = node.output[position] = name + self.suffix
            graph.node.append(node)
        for output in graph.output:  # also of a branch, for the other branch's is float32, too
            if output.name in self.floats:
                output.name = self._float32(output.name, inner)

    def _is_lower(self, node: onnx.NodeProto, low: Mapping[str, str]) -> bool:
        if _is_plugin(node):
            return self.kind == TensorProto.FLOAT16 and node.input[0] in low
        if node.domain not in ("", "ai.onnx") or not self.kept.isdisjoint(node.output):
            return False
        if node.op_type in _PRODUCTS:
            return not self.floats.isdisjoint(node.output) and all(self._fits(name) for name in node.input)
        return node.op_type in _FOLLOWING and any(name in low for name in node.input)

    def _fits(self, name: str) -> bool:
        """Whether the weights of a product can be held."""
        weight = self.weights.get(name)
        if weight is None or self.kind != TensorProto.FLOAT16:
            return True
        values = numpy_helper.to_array(weight)
        return not values.size or float(np.abs(values).max()) <= _LARGEST

    def _lower(self, name: str, scope: _Scope) -> str:
        if name in self.weights:
            if name not in self.lowered:
                self.lowered[name] = self._stored(self.weights[name])
            return self.lowered[name].name
        if name not in scope.low:
            scope.low[name] = f"{scope.prefix}{name}{self.suffix}"
            scope.cast(scope.high.setdefault(name, name), scope.low[name], self.kind)
        return scope.low[name]

    def _float32(self, name: str, scope: _Scope) -> str:
        if name in scope.low and name not in scope.high:
            scope.high[name] = f"{scope.prefix}{name}"
            scope.cast(scope.low[name], scope.high[name], TensorProto.FLOAT)
        return scope.high.get(name, name)

    def _stored(self, weight: TensorProto) -> TensorProto:
        """Finite numbers stay finite: a large one stands for none, as −3.4e38 in masks of attention."""
        values = numpy_helper.to_array(weight)
        if self.kind == TensorProto.FLOAT16:
            values = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
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
