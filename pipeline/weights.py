"""One file of weights that all models of a bundle refer to, as ONNX external data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..runtime.native.plan import Array

FILE = "weights.bin"
ALIGNMENT = 64
INLINE = 1024  # bytes; smaller tensors stay in the model, where shape inference can see them


class WeightFile:
    """Writes each distinct tensor once. Use as a context manager; models are written beside it.

    All models saved are parts of one program: tensors of one name are one tensor."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file = (folder / FILE).open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}  # by sha256 of the contents
        self._named: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def save(self, model: onnx.ModelProto, file: str) -> None:
        """Writes the model with its weights moved out. The model itself is left as it is."""
        light = onnx.ModelProto()
        light.CopyFrom(_without_initializers(model))
        choices = {i.name for i in model.graph.input}
        for tensor in model.graph.initializer:
            data = None if tensor.name in choices else _raw(tensor)
            if data is None or len(data) < INLINE:
                light.graph.initializer.append(tensor)
            else:
                light.graph.initializer.append(self._refer(tensor, data))
        (self._folder / file).write_bytes(light.SerializeToString(deterministic=True))

    def place(self, values: np.ndarray) -> Array:
        """Where these numbers (float32 or int8) stand in the file."""
        offset, _ = self._place(values.astype(values.dtype.newbyteorder("<"), order="C").tobytes())
        return Array(offset, values.shape, values.dtype.name)

    def _refer(self, tensor: TensorProto, data: bytes) -> TensorProto:
        if tensor.name not in self._named:
            self._named[tensor.name] = self._place(data)
        offset, length = self._named[tensor.name]
        outside = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        outside.data_location = TensorProto.EXTERNAL
        for key, value in (("location", FILE), ("offset", str(offset)), ("length", str(length))):
            outside.external_data.add(key=key, value=value)
        return outside

    def _place(self, data: bytes) -> tuple[int, int]:
        digest = hashlib.sha256(data).digest()
        if digest not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._places[digest] = self._file.tell(), len(data)
            self._file.write(data)
        return self._places[digest]


def _raw(tensor: TensorProto) -> bytes | None:
    """Little-endian bytes of a tensor; None for one that has no such form."""
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    if tensor.data_type == TensorProto.STRING:
        return None
    array = numpy_helper.to_array(tensor)
    return np.ascontiguousarray(array).tobytes() if array.dtype.kind in "fiub" else None


def _without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of everything but the weights, which may be large."""
    light = onnx.ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.metadata_props.extend(model.metadata_props)
    graph = light.graph
    graph.name = model.graph.name or "program"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    return light
