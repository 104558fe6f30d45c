"""Shape arithmetic that gives the same value at every probed resolution becomes a constant."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph import SHAPE, Graph
from ..probe import Probes


def shape_values(model: onnx.ModelProto, probes: Probes) -> None:
    """Readers of data get an initializer `<name>@value` instead of the computed tensor `<name>`."""
    graph = Graph(model)
    added: set[str] = set()
    for node in model.graph.node:
        if graph.is_free(node):
            continue
        for i, name in enumerate(node.input):
            value = probes.constant(name) if graph.depends.get(name) == SHAPE else None
            if value is not None:
                node.input[i] = add_value(model, f"{name}@value", value, added)


def add_value(model: onnx.ModelProto, name: str, value: np.ndarray, added: set[str]) -> str:
    """Adds an initializer once and gives its name."""
    if name not in added:
        added.add(name)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name
