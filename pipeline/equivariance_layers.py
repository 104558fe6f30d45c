"""Which layers of a program break its equivariance: those whose positions are off the center, those whose weights go
beyond the bound that the export wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..export.groups import Group
from ..export.softness import Softness, SoftTensor
from .dense import Dense
from .metadata import read_equivariance

SAMPLING = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_QUANTIZED = "_quantized"  # what onnxruntime's quantizer adds to the name of a weight


@dataclass(frozen=True)
class OffCenter:
    """A layer whose positions do not lie evenly about the center of its input, so that turning the input does not turn
    its output, whatever its weights. It would be right where (size + pads − kernel) is a multiple of the stride; of a
    transposed conv, where its output is padded as much on every side."""

    layer: str
    op: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    size: tuple[int, int]  # of its input, (height, width)

    def line(self) -> str:
        kernel, stride, size = (" × ".join(map(str, pair)) for pair in (self.kernel, self.stride, self.size))
        return f"{self.layer} ({self.op} {kernel}, stride {stride}, on {size})"


@dataclass(frozen=True)
class LayerError:
    """A softened tensor as the program holds it: the largest `error` of an element of its group, and the `bound` that
    the export wrote of it."""

    tensor: str
    group: str
    softness: float
    error: float
    bound: float


def layer_errors(program: Path) -> tuple[LayerError, ...]:
    """Of the tensors that the program's metadata names and that are in it, quantized or not."""
    facts = read_equivariance(program)
    weights = _weights(onnx.load(program)) if facts else {}
    found = []
    for entry in facts:
        name, bound = entry.pop("tensor"), entry.pop("bound")
        if name in weights:
            held = SoftTensor(name, Softness(**entry), weights[name])
            error = max(held.error(element) for element in Group(held.softness.group).elements())
            found.append(LayerError(name, held.softness.group, held.softness.softness, error, bound))
    return tuple(found)


def off_center(program: Path, image: np.ndarray) -> tuple[OffCenter, ...]:
    """The convs and poolings that are, for images of this size, in the program's order."""
    graph = onnx.load(program, load_external_data=False).graph
    nodes = [node for node in graph.node if node.op_type in SAMPLING]
    names = {name for node in nodes for name in (node.input[0], node.output[0])}
    tensors = sorted(names - {value.name for value in (*graph.input, *graph.output)})
    values = {graph.input[0].name: image, **Dense(program, 0, tensors=tensors)(image)}
    weights = {i.name: list(i.dims) for i in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    found = []
    for node in nodes:
        attributes = {a.name: list(a.ints) for a in node.attribute}
        weight = node.input[1] if node.op_type in ("Conv", "ConvTranspose") else ""
        weight = makers[weight].input[0] if weight in makers else weight
        kernel = attributes.get("kernel_shape") or weights[weight][2:]
        stride, dilation = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
        before = attributes.get("pads", [0] * 4)[:2]
        size, sampled = (values[name].shape[2:] for name in (node.input[0], node.output[0]))
        ends = (sampled, size) if node.op_type == "ConvTranspose" else (size, sampled)
        if any(
            2 * -p + (k - 1) * d + (few - 1) * s != many - 1
            for p, k, d, s, many, few in zip(before, kernel, dilation, stride, *ends, strict=True)
        ):
            name = weight.removesuffix(".weight") if weight in weights else node.name
            found.append(OffCenter(name, node.op_type, _pair(kernel), _pair(stride), _pair(size)))
    return tuple(found)


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return numbers[0], numbers[1]


def _weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The program's float tensors by name; quantized ones, as they are read, by the name that they had before."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    floats = {i.name for i in model.graph.initializer if i.data_type in _FLOATS}
    found = {name: array.astype(np.float64) for name, array in arrays.items() if name in floats}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and all(name in arrays for name in node.input):
            name = node.input[0].removesuffix(_QUANTIZED)
            found[name] = _dequantized(*(arrays[i] for i in node.input), axis=_axis(node))
    return found


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 1)


def _dequantized(
    values: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, *, axis: int
) -> np.ndarray:
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = -1
    offset = 0.0 if zero is None else zero.astype(np.float64).reshape(shape)
    return (values.astype(np.float64) - offset) * scale.astype(np.float64).reshape(shape)
