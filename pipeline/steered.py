"""A bundle whose masks are given from outside: its own engines, but what decides is not asked.

Of the files that decide, a copy is opened beside the engine, in which the keep masks are inputs; all others, native
kernels too, are the bundle's as they are, and compute the positions that the given masks keep.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from ..runtime.backends.ort import open_ort
from ..runtime.engine import Config, Engine, OrtConfig, Ports, register
from ..runtime.manifest import TensorSpec

_GIVEN = "given "  # prefix of the inputs


@dataclass(frozen=True)
class SteeredConfig(OrtConfig):
    """As `foveate.load`'s backend. masks: the keep masks' tensors; keeps: all of them by name, float32 [1, 1, H, W],
    which the caller changes between requests, or none: then the bundle decides as ever."""

    masks: tuple[str, ...] = ()
    keeps: dict[str, np.ndarray] = field(default_factory=dict, compare=False)


@register(SteeredConfig)
def open_steered(path: Path, config: Config, ports: Ports) -> Engine:
    assert isinstance(config, SteeredConfig)
    engine = open_ort(path, config, ports)
    model = onnx.load(path, load_external_data=False)
    made = [name for name in config.masks if any(name in node.output for node in model.graph.node)]
    if not made:
        return engine
    with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
        copy = Path(folder) / path.name
        onnx.save(_with_inputs(onnx.load(path), made), copy)
        given = tuple(TensorSpec(_GIVEN + name, "float32", ("n", 1, "h", "w")) for name in made)
        return _Steered(
            engine, open_ort(copy, config, replace(ports, inputs=ports.inputs + given)), made, config.keeps
        )


def _with_inputs(model: onnx.ModelProto, masks: list[str]) -> onnx.ModelProto:
    """`model`, changed in place: each mask is what is fed."""
    graph = model.graph
    for name in masks:
        producer = next(node for node in graph.node if name in node.output)
        producer.output[list(producer.output).index(name)] = f"decided {name}"
        graph.input.append(
            onnx.helper.make_tensor_value_info(_GIVEN + name, onnx.TensorProto.FLOAT, [None, 1, None, None])
        )
        graph.node.insert(0, onnx.helper.make_node("Identity", [_GIVEN + name], [name], name=f"steer {name}"))
    return model


class _Steered:
    """An engine and its copy, which has masks for inputs."""

    def __init__(self, engine: Engine, copy: Engine, masks: list[str], keeps: Mapping[str, np.ndarray]):
        self._engine, self._copy, self._masks, self._keeps = engine, copy, masks, keeps
        self.inputs, self.optional, self.outputs = engine.inputs, engine.optional, engine.outputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if not self._keeps:
            return self._engine.run(feeds)
        given = {_GIVEN + name: self._keeps[name] for name in self._masks}
        answers = self._copy.run({**feeds, **given})
        by_name = dict(zip(self._copy.outputs, answers, strict=True))
        return [by_name[name] for name in self.outputs]

    def close(self) -> None:
        self._engine.close()
        self._copy.close()
