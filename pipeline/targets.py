"""Targets of a build: what each backend makes of a bundle's ONNX files. Chosen by the type of the engine's config."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime.engine import (
    PRECISIONS,
    Config,
    CudaConfig,
    NullConfig,
    OrtConfig,
    TensorRTConfig,
    TorchConfig,
    TorchTensorRTConfig,
    by_config,
)
from ..runtime.errors import EngineError, InputError, MissingExtraError, did_you_mean
from ..runtime.manifest import EngineFile, Manifest

TARGETS: dict[str, Config] = {
    "cpu": OrtConfig(),
    "cuda": CudaConfig(),
    "tensorrt": TensorRTConfig(),
    "torch_tensorrt": TorchTensorRTConfig(),
    "torch": TorchConfig(),
    "null": NullConfig(),
}
_COMPUTE = re.compile(r"sm\d{2,3}")


@dataclass(frozen=True)
class Order:
    """What engines are built of: a bundle's folder with its programs, and what is asked of them. `files`: the ONNX
    files, `ranges`: of symbolic dims (tensorrt/profiles.py). `tell` is told what is done."""

    folder: Path
    manifest: Manifest
    files: Sequence[str]
    ranges: Mapping[str, tuple[int, int, int]]
    tell: Callable[[str], None]


class Made(NamedTuple):
    """The engines of a bundle that are files of their own, and what is to be noted of them."""

    engines: tuple[EngineFile, ...] = ()
    notes: tuple[str, ...] = ()


Builder = Callable[[Order, Any], Made]
_BUILDERS: dict[type, Builder] = {}


builds = by_config(_BUILDERS, "builders for")  # decorates what makes or checks the engines of a bundle


def target_config(target: str) -> Config:
    """The engine config of a target: a name, for TensorRT with a precision and compute capabilities, as in
    "tensorrt:fp16@sm89,sm120". Raises InputError that suggests the nearest."""
    head, at, computes = target.partition("@")
    name, colon, precision = head.partition(":")
    if name not in TARGETS:
        raise InputError(
            "target",
            got=repr(target),
            expected=f"one of {', '.join(TARGETS)}",
            fix=did_you_mean(name, TARGETS, "Pass --target cpu."),
        )
    config = TARGETS[name]
    if not isinstance(config, TensorRTConfig | TorchTensorRTConfig):
        if colon or at:
            fix = f"Pass --target {name}; precisions and GPUs are tensorrt's."
            raise InputError("target", got=repr(target), expected=name, fix=fix)
        return config
    if colon and precision not in PRECISIONS:
        raise InputError(
            f"precision of target {target!r}",
            got=repr(precision),
            expected=f"one of {', '.join(PRECISIONS)}",
            fix=did_you_mean(precision, PRECISIONS, "Pass --target tensorrt:fp16."),
        )
    compute = tuple(computes.split(",")) if at else ()
    if wrong := [part for part in compute if not _COMPUTE.fullmatch(part)]:
        raise InputError(
            f"compute capability of target {target!r}",
            got=repr(wrong[0]),
            expected="sm and the capability's digits, such as sm89 for 8.9",
            fix="An RTX 4090 and an L4 are sm89, an RTX 5090 sm120.",
        )
    return type(config)(precision=precision or "fp32", compute=compute)


def target_of(manifest: Manifest) -> str:
    """The target that a bundle was built for, to build another one like it."""
    name = next(name for name, config in TARGETS.items() if config.backend == manifest.backend)
    if not manifest.engines:
        return name
    computes = ",".join(sorted({e.compute for e in manifest.engines} - {"any"}))
    rtx = manifest.engines[0].flavour == "tensorrt_rtx"  # others build for the GPU that is there
    return f"{name}:{manifest.engines[0].precision}" + (f"@{computes}" if computes and rtx else "")


def in_precision(target: str, precision: str) -> str:
    """That target with engines in another precision; the same where engines have none of their own."""
    head, at, computes = target.partition("@")
    name, colon, _ = head.partition(":")
    return f"{name}:{precision}{at}{computes}" if colon else target


def is_built_for(manifest: Manifest, target: str) -> bool:
    """Whether a bundle has what `target` asks for. Raises InputError as `target_config`."""
    config = target_config(target)
    if not isinstance(config, TensorRTConfig | TorchTensorRTConfig):
        return manifest.backend == config.backend
    built = {e.compute for e in manifest.engines if e.precision == config.precision}
    return manifest.backend == config.backend and bool(built) and set(config.compute) <= built


def build_engines(order: Order, config: Config) -> Made:
    """Makes the engines of a bundle's ONNX files; those that are files of their own are given. Raises InputError,
    ProgramError, EngineError where the backend refuses one, MissingExtraError."""
    return _BUILDERS[type(config)](order, config)


@builds(TorchTensorRTConfig)
@builds(TensorRTConfig)
def compile_for_nvidia(order: Order, config: TensorRTConfig | TorchTensorRTConfig) -> Made:
    """Beside them onnxruntime takes the same files, for machines without such a GPU."""
    from .tensorrt.bundle_engines import build_engines

    load_in_onnxruntime(order, OrtConfig())
    return Made(*build_engines(order.folder, order.manifest, config, order.ranges, order.tell))


@builds(OrtConfig)
@builds(CudaConfig)
@builds(TorchConfig)
def load_in_onnxruntime(order: Order, config: OrtConfig | CudaConfig | TorchConfig) -> Made:
    """onnxruntime and torch compile on load: each file is its own engine, and only has to load."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "building for target cpu") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for path in (order.folder / file for file in order.files):
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common root of their own
            raise EngineError(
                f"segment {path.name}",
                got=str(error).strip().splitlines()[0],
                expected="a model that onnxruntime loads",
                fix="The program has an op that this onnxruntime does not know: update it, or lower the opset.",
            ) from error
    return Made()


@builds(NullConfig)
def nothing(order: Order, config: NullConfig) -> Made:
    """The null backend computes nothing."""
    return Made()
