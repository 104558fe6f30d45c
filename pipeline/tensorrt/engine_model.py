"""What TensorRT is given of a file of programs/."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx

from ...export.ops.deformable_sample import with_gathers
from ...runtime.engine import parts
from ..graph import SAMPLE
from ..lean import lean
from ..lower_precision import KINDS, between, decision_tensors, lower_precision
from ..weights import INLINE
from .plugin_nodes import keys, leave_to_plugins, restore
from .precision import sums_of_bytes

_WEIGHTS = "weights.bin"


@dataclass(frozen=True)
class EngineModel:
    """A file; the sha256 of it with its weights; and the plugins that it needs, such as "EnergyMask 1"."""

    path: Path
    digest: str
    plugins: tuple[str, ...]


class EngineModels:
    """Of one bundle's program, in one precision. `plugins`: those that there are."""

    def __init__(self, program: onnx.ModelProto, precision: str, plugins: Collection[str] = ()):
        self._program = program
        self._read, self._made = decision_tensors(program)
        self._precision, self.plugins = precision, plugins

    def make(self, file: Path) -> onnx.ModelProto:
        """With its weights."""
        model = onnx.load(file)
        with_gathers(model)  # TensorRT may sample wrongly by GridSample (NVIDIA/TensorRT issue 4813)
        model = lean(model, natives={SAMPLE} & keys(self.plugins))  # the types in other bodies are seen below
        restore(model, self._program, self.plugins)
        open_choices(model)
        kept = between(model.graph, self._read, self._made)
        kind, floats = parts(self._precision)
        if kind:
            kept |= sums_of_bytes(model.graph)
        return lower_precision(model, floats, kept) if floats in KINDS else model

    def write(self, file: Path, folder: Path) -> EngineModel:
        """Writes the model of `file` into an empty folder."""
        model = self.make(file)
        used = leave_to_plugins(model, self.plugins)
        path = folder / file.name
        outside = {"save_as_external_data": True, "location": _WEIGHTS, "size_threshold": INLINE}
        onnx.save_model(model, path, **outside)
        digest = hashlib.sha256(path.read_bytes())
        if (folder / _WEIGHTS).is_file():
            digest.update((folder / _WEIGHTS).read_bytes())
        return EngineModel(path, digest.hexdigest(), used)


def open_choices(model: onnx.ModelProto) -> None:
    """TensorRT takes an input with a default for a constant. Choices become inputs without: they change without a new
    engine."""
    inputs = {value.name for value in model.graph.input}
    defaults = [i for i in model.graph.initializer if i.name in inputs]
    for tensor in defaults:
        value = next(v for v in model.graph.input if v.name == tensor.name)
        value.CopyFrom(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        model.graph.initializer.remove(tensor)
