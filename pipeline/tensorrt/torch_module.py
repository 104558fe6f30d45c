"""An ONNX model as a torch module that torch.export takes: node by node, with symbols for sizes that are free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch

from ...runtime.errors import EngineError, ProgramError
from ...runtime.onnx_torch import protos
from ...runtime.onnx_torch.operators import OPERATORS
from ...runtime.onnx_torch.registry import Attributes
from ...runtime.onnx_torch.sizes import SIZES, shape

# An array, of numbers and symbols, where it follows from constants and sizes alone.
Value = torch.Tensor | np.ndarray
_OF_SIZES = ("Shape", "Size")
# What torch computes of Q/DQ is rounding of floats: of that TensorRT would make no layers in bytes.
_KNOWN = {*OPERATORS, *_OF_SIZES, "Constant"} - {"QuantizeLinear", "DequantizeLinear"}
_FEW = 8  # floats that operators may read as numbers


class OnnxModule(torch.nn.Module):
    """Takes the model's inputs in order, and gives a tuple of its outputs. Raises ProgramError for an operator that has
    no function. Weights are buffers; whole numbers are constants, so that shapes made of them are known."""

    def __init__(self, model: onnx.ModelProto):
        super().__init__()
        graph = model.graph
        self.inputs = [i.name for i in graph.input]
        self.outputs = [o.name for o in graph.output]
        self._numbers: dict[str, np.ndarray] = {}
        self._buffer_of: dict[str, str] = {}
        self._nodes: list[tuple[onnx.NodeProto, Attributes]] = []
        for tensor in graph.initializer:
            self._add(tensor.name, protos.to_tensor(tensor))
        for node in graph.node:
            if node.op_type not in _KNOWN or node.domain not in ("", "ai.onnx"):
                raise _refused(node, "no such operation of torch", f"one of {len(_KNOWN)} stock operators")
            attributes = {a.name: protos.attribute(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._add(node.output[0], protos.constant(attributes))
            else:
                self._nodes.append((node, attributes))

    def _add(self, name: str, value: torch.Tensor) -> None:
        floats = value.is_floating_point() or value.dtype == torch.bool
        if not floats or (value.numel() <= _FEW and value.dtype == torch.float32):
            self._numbers[name] = value.numpy()
        if floats:
            self._buffer_of[name] = f"weight{len(self._buffer_of)}"
            self.register_buffer(self._buffer_of[name], value)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values: dict[str, Value] = {**self._numbers, **dict(zip(self.inputs, inputs, strict=True))}
        values |= {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        for node, attributes in self._nodes:
            made = self._run(node, attributes, values)
            values |= zip(node.output, made if isinstance(made, tuple) else (made,), strict=False)
        return tuple(_tensor(values[name]) for name in self.outputs)

    def _run(
        self, node: onnx.NodeProto, attributes: Attributes, values: Mapping[str, Value]
    ) -> Value | tuple[Value, ...]:
        known = [self._numbers.get(name, values[name]) if name else None for name in node.input]
        if node.op_type in _OF_SIZES:
            return np.array(shape(node.op_type, attributes, known[0]), object)
        if node.op_type in SIZES and not any(isinstance(value, torch.Tensor) for value in known):
            made = SIZES[node.op_type](attributes, *known)
            if made is not None:
                return made if isinstance(made, np.ndarray | tuple) else np.array(made, object)
        found = OPERATORS[node.op_type]
        arguments = [
            None if value is None
            else value.tolist() if place in found.host
            else _tensor(values[name])
            for place, (name, value) in enumerate(zip(node.input, known, strict=True))
        ]  # fmt: skip
        try:
            return found.run(attributes, *arguments)
        except EngineError as error:
            raise _refused(node, error.got, error.expected) from error


def export(
    module: OnnxModule, shapes: Mapping[str, Sequence[Sequence[int]]], dtypes: Mapping[str, torch.dtype]
) -> Any:
    """torch.export's program of it, with the dims free that differ between the least, the opt and the most shape of an
    input."""
    examples, free = [], []
    for name in module.inputs:
        least, _, most = shapes[name]
        examples.append(torch.zeros(tuple(most), dtype=dtypes[name]))
        free.append(
            {i: torch.export.Dim.DYNAMIC for i, (a, b) in enumerate(zip(least, most, strict=True)) if a != b}
        )
    return torch.export.export(module.eval(), tuple(examples), dynamic_shapes=(tuple(free),), strict=False)


def _tensor(value: Value) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if value.dtype != object:
        return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    if not value.size:
        return torch.zeros(value.shape, dtype=torch.int64)
    return torch.stack([torch.scalar_tensor(n, dtype=torch.int64) for n in value.flat]).reshape(value.shape)


def _refused(node: onnx.NodeProto, got: str, expected: str) -> ProgramError:
    return ProgramError(
        f"node {node.name or node.output[0]} ({node.op_type})",
        got=got,
        expected=expected,
        fix="Build for tensorrt, which reads ONNX itself, or for cpu.",
    )
