"""An ONNX model as a torch module that torch.export takes: node by node, with symbols for sizes that are free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from ...runtime.errors import ProgramError
from .torch_ops import Value
from .torch_products import OPS

_READ = {"Resize": (2,), "Pad": (2,)}  # inputs of floats that must be known as numbers …
_FEW = 8  # … of so many


class OnnxModule(torch.nn.Module):
    """Takes the model's inputs in order, and gives a tuple of its outputs. Raises ProgramError for an operator that has
    no function. Weights are buffers; whole numbers are constants, so that shapes made of them are known."""

    def __init__(self, model: onnx.ModelProto):
        super().__init__()
        graph = model.graph
        self.inputs = [i.name for i in graph.input]
        self.outputs = [o.name for o in graph.output]
        self._nodes = list(graph.node)
        self._known: dict[str, Value] = {}
        self._buffer_of: dict[str, str] = {}
        self._floats: dict[str, np.ndarray] = {}
        for number, tensor in enumerate(graph.initializer):
            value = _value(tensor)
            if isinstance(value, np.ndarray):
                self._known[tensor.name] = value
            else:
                if value.numel() <= _FEW and value.dtype == torch.float32:
                    self._floats[tensor.name] = value.numpy()
                self._buffer_of[tensor.name] = f"weight{number}"
                self.register_buffer(f"weight{number}", value)
        for node in self._nodes:
            if node.domain not in ("", "ai.onnx") or node.op_type not in OPS:
                raise ProgramError(
                    f"node {node.name or node.output[0]} ({node.op_type})",
                    got="no such operation of torch",
                    expected=f"one of {len(OPS)} stock operators",
                    fix="Build for tensorrt, which reads ONNX itself, or for cpu.",
                )
        self._attributes = [{a.name: _attribute(a) for a in node.attribute} for node in self._nodes]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values: dict[str, Value] = dict(zip(self.inputs, inputs, strict=True))
        values |= self._known
        values |= {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        for node, attributes in zip(self._nodes, self._attributes, strict=True):
            given = [values[name] if name else None for name in node.input]
            for place in _READ.get(node.op_type, ()):
                if place < len(given) and node.input[place] in self._floats:
                    given[place] = self._floats[node.input[place]]
            made = OPS[node.op_type](*given, **attributes)
            several = made if isinstance(made, tuple | list) else (made,)
            values |= zip(node.output, several, strict=False)
        return tuple(values[name] for name in self.outputs)


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


def _value(tensor: onnx.TensorProto) -> Value:
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32)).to(torch.bfloat16)
    array = numpy_helper.to_array(tensor)
    return array if array.dtype.kind in "iu" else torch.from_numpy(array.copy())


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        array = numpy_helper.to_array(value)
        return array if array.dtype == np.float32 else _value(value)
    return value.decode() if isinstance(value, bytes) else list(value) if attribute.type > 5 else value
