"""A bundle whose masks are given from outside: its own engines, but what decides is not asked.

Of the files that decide, a copy is opened beside the engine, in which the keep masks are inputs; all others, native
kernels too, are the bundle's as they are, and compute the positions that the given masks keep. Copies of what
TensorRT runs are opened by onnxruntime-gpu or torch, from the files that its engines were built from.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..runtime.backends.ort import open_ort
from ..runtime.device.device import Device
from ..runtime.device.engine import DeviceEngine, open_on_device, register_on_device
from ..runtime.device.opening import open_for_torch, open_gpu, register_device
from ..runtime.engine import (
    Config,
    CudaConfig,
    Engine,
    OrtConfig,
    Ports,
    TensorRTConfig,
    TorchConfig,
    register,
)
from ..runtime.errors import InputError
from ..runtime.manifest import Manifest, TensorSpec

_GIVEN = "given "  # prefix of the inputs


@dataclass(frozen=True)
class Steering:
    """Of a config for `foveate.load`. masks: the keep masks' tensors; keeps: all of them by name, float32 [1, 1, H, W],
    which the caller changes between requests, or none: then the bundle decides as ever."""

    masks: tuple[str, ...] = ()
    keeps: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class SteeredConfig(OrtConfig, Steering):
    """onnxruntime on the CPU, steered."""


@dataclass(frozen=True)
class SteeredCuda(CudaConfig, Steering):
    """onnxruntime-gpu, steered."""


@dataclass(frozen=True)
class SteeredTorch(TorchConfig, Steering):
    """torch, steered."""


@dataclass(frozen=True)
class SteeredTensorRT(TensorRTConfig, Steering):
    """TensorRT, steered. programs: what each engine was built from, by the name of its plan."""

    programs: dict[str, Path] = field(default_factory=dict, repr=False)


Steered = SteeredConfig | SteeredCuda | SteeredTorch | SteeredTensorRT
_STEERED: dict[type, type[Steered]] = {
    OrtConfig: SteeredConfig,
    CudaConfig: SteeredCuda,
    TorchConfig: SteeredTorch,
    TensorRTConfig: SteeredTensorRT,
}


def steered(config: Config, masks: Sequence[str], bundle: Path, manifest: Manifest) -> Steered:
    """`config` with these masks given from outside. Raises InputError for a backend whose engines cannot be run so."""
    kind = _STEERED.get(type(config))
    if kind is None:
        raise InputError(
            f"steering the masks of {bundle}",
            got=f"backend {config.backend!r}",
            expected=f"one of {', '.join(known.backend for known in _STEERED)}",
            fix="Build the program for such a --target, and verify that bundle.",
        )
    known = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if kind is SteeredTensorRT:
        known["programs"] = {Path(e.plan).name: bundle / e.program for e in manifest.engines}
    return kind(**known, masks=tuple(masks))


@register(SteeredConfig)
def open_steered(path: Path, config: Config, ports: Ports) -> Engine:
    assert isinstance(config, SteeredConfig)
    engine = open_ort(path, config, ports)
    copy = _copy(path, config.masks, ports, lambda path, ports: open_ort(path, config, ports))
    return engine if copy is None else _WithCopy(engine, *copy, config.keeps, lambda keep: keep)


@register_on_device(SteeredCuda)
@register_on_device(SteeredTorch)
@register_on_device(SteeredTensorRT)
def open_steered_on_device(
    path: Path, config: SteeredCuda | SteeredTorch | SteeredTensorRT, ports: Ports, device: Device
) -> DeviceEngine:
    plain = copies = _unsteered(config)
    file = path
    if isinstance(config, SteeredTensorRT):
        copies, file = _opens_copies(config), config.programs[path.name]
    engine = open_on_device(path, plain, ports, device)
    copy = _copy(file, config.masks, ports, lambda path, ports: open_on_device(path, copies, ports, device))
    return engine if copy is None else _WithCopy(engine, *copy, config.keeps, device.put)


register_device(SteeredTorch)(open_for_torch)
register_device(SteeredCuda)(open_gpu)
register_device(SteeredTensorRT)(open_gpu)


def _unsteered(config: Steered) -> Config:
    kind = next(kind for kind, own in _STEERED.items() if own is type(config))
    return kind(**{f.name: getattr(config, f.name) for f in dataclasses.fields(kind)})


def _opens_copies(config: TensorRTConfig) -> Config:
    import onnxruntime

    on_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return CudaConfig(threads=config.threads) if on_gpu else TorchConfig(threads=config.threads)


def _copy(
    path: Path, masks: Sequence[str], ports: Ports, open_copy: Callable[[Path, Ports], Any]
) -> tuple[Any, list[str]] | None:
    """The engine of a file whose masks are inputs, and their names; None where it makes none of `masks`."""
    model = onnx.load(path, load_external_data=False)
    made = [name for name in masks if any(name in node.output for node in model.graph.node)]
    if not made:
        return None
    given = tuple(TensorSpec(_GIVEN + name, "float32", ("n", 1, "h", "w")) for name in made)
    with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
        file = Path(folder) / path.name
        onnx.save(_with_inputs(onnx.load(path), made), file)
        return open_copy(file, replace(ports, inputs=ports.inputs + given)), made


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


class _WithCopy:
    """An engine, of numpy's arrays or a device's, beside its copy, which has masks for inputs. `put` brings a mask to
    where they run."""

    capture = None  # masks come from the host

    def __init__(
        self,
        engine: Any,
        copy: Any,
        masks: list[str],
        keeps: Mapping[str, np.ndarray],
        put: Callable[[np.ndarray], Any],
    ):
        self._engine, self._copy, self._masks, self._keeps, self._put = engine, copy, masks, keeps, put
        self.inputs, self.optional, self.outputs = engine.inputs, engine.optional, engine.outputs

    def most(self, sizes: Mapping[str, Any]) -> int:
        return self._engine.most(sizes)

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        if not self._keeps:
            return self._engine.run(feeds)
        given = {_GIVEN + name: self._put(self._keeps[name]) for name in self._masks}
        answers = self._copy.run({**feeds, **given})
        by_name = dict(zip(self._copy.outputs, answers, strict=True))
        return [by_name[name] for name in self.outputs]

    def close(self) -> None:
        self._engine.close()
        self._copy.close()
