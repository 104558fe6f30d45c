"""The `torch_tensorrt` backend: plans that Torch-TensorRT built, run by its own runtime in torch.

A plan is engines/<file>.<gpu>.plan of the bundle, beside its description. It is raw bytes: nothing is unpickled.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_device import compute_capability
from ..engine import Config, Ports, TorchTensorRTConfig, fed, register
from ..errors import EngineError, MissingExtraError, told


class TorchTensorRTEngine:
    """One plan. See `engine.Engine`. Arrays go to the GPU and come back with every run."""

    def __init__(self, path: Path, ports: Ports):
        """`path`: of the ONNX file that the plan was built from."""
        self._module: Any = None
        self.name = path.name
        plan = path.parent.parent / "engines" / f"{path.stem}.{compute_capability()}.plan"
        try:
            facts = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))
            bound = [t["name"] for t in facts["inputs"]]
            given = [t["name"] for t in facts["outputs"]]
            self._torch, self._device, self._module = _open(plan.read_bytes(), path.stem, bound, given)
        except (OSError, ValueError, KeyError) as error:
            raise EngineError(
                f"the engine of {path.name}",
                got=told(error),
                expected=f"{plan.name} and its description",
                fix="Build the bundle again with `foveate build --target torch_tensorrt` on this GPU.",
            ) from error
        known = {t.name for t in ports.inputs}
        self._bound, self._given = bound, given
        self.inputs = tuple(name for name in bound if name in known)
        self.optional = tuple(name for name in bound if name not in known)  # choices
        self.outputs = tuple(t.name for t in (*ports.outputs, *ports.extras) if t.name in given)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            tensors = [self._torch.from_numpy(np.array(feeds[name])).to(self._device) for name in self._bound]
            with self._torch.inference_mode():
                made = self._module(*tensors)
            several = made if isinstance(made, tuple | list) else (made,)
            by_name = dict(zip(self._given, several, strict=True))
            return [by_name[name].cpu().numpy() for name in self.outputs]
        except Exception as error:  # torch's and TensorRT's have no common root of their own
            raise EngineError(
                f"Torch-TensorRT failed in {self.name}",
                got=f"{told(error)} {fed(feeds)}",
                expected="a run without error",
                fix="Check the shapes against the profile that `foveate inspect` shows.",
            ) from error

    def close(self) -> None:
        self._module = None


@register(TorchTensorRTConfig)
def open_torch_tensorrt(path: Path, config: Config, ports: Ports) -> TorchTensorRTEngine:
    assert isinstance(config, TorchTensorRTConfig)
    return TorchTensorRTEngine(path, ports)


def _open(plan: bytes, name: str, inputs: list[str], outputs: list[str]) -> tuple[Any, Any, Any]:
    """torch, the device, and the plan as a module."""
    try:
        import torch

        torch_tensorrt: Any = importlib.import_module("torch_tensorrt")  # not this module
    except ImportError as error:
        raise MissingExtraError(
            "torch_tensorrt", "torch-tensorrt", "running engines of Torch-TensorRT"
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = torch_tensorrt.runtime.TorchTensorRTModule(
        serialized_engine=plan, input_binding_names=inputs, output_binding_names=outputs, name=name
    )
    return torch, device, module
