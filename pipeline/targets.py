"""Targets of a build: what each backend makes of a bundle's ONNX files. Chosen by the type of the engine's config."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from ..runtime.engine import (
    LOWERED,
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
_PRECISIONS: dict[type[Config], tuple[str, ...]] = {
    TensorRTConfig: PRECISIONS,
    TorchTensorRTConfig: PRECISIONS,
    CudaConfig: ("fp32", *LOWERED["cuda"]),
    TorchConfig: ("fp32", *LOWERED["torch"]),
}
_NO_GAIN = "A CPU computes float16 in float32, with a cast on either side; what makes it faster is a program in int8 "
_NO_GAIN += "(foveate calibrate PROGRAM --precision int8). Pass --target cpu."
_WHY_NOT = {
    ("cpu", "fp16"): _NO_GAIN,
    ("cpu", "bf16"): _NO_GAIN,
    (
        "cuda",
        "bf16",
    ): "onnxruntime has not all operators in bfloat16. Pass --target cuda:fp16, torch:bf16 or tensorrt:bf16.",
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
    """The engines of a bundle that are files of their own, what is to be noted of them, what other files they need, and
    the manifest's `lowered`."""

    engines: tuple[EngineFile, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    lowered: tuple[str, ...] = ()


Builder = Callable[[Order, Any], Made]
_BUILDERS: dict[type, Builder] = {}


builds = by_config(_BUILDERS, "builders for")  # decorates what makes or checks the engines of a bundle


def target_config(target: str) -> Config:
    """The engine config of a target: a name, with the precision that its backend's engines may have, as in "cuda:fp16",
    and for TensorRT compute capabilities, as in "tensorrt:fp16@sm89,sm120". Raises InputError that suggests the nearest
    or says why there is none."""
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
    known = _PRECISIONS.get(type(config), ())
    if colon and precision not in known:
        raise InputError(
            f"precision of target {target!r}",
            got=repr(precision),
            expected=f"one of {', '.join(known)}" if known else f"--target {name}, which has no other",
            fix=_WHY_NOT.get((name, precision)) or did_you_mean(precision, known, f"Pass --target {name}."),
        )
    if not isinstance(config, TensorRTConfig | TorchTensorRTConfig):
        if at:
            fix = f"Pass --target {head}; GPUs are tensorrt's to be built for."
            raise InputError("target", got=repr(target), expected=head, fix=fix)
        return replace(config, precision=precision) if colon else config
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
    """That target for a program in another precision: with engines in it, or in the program's where it has no such
    engines."""
    head, at, computes = target.partition("@")
    name, colon, _ = head.partition(":")
    own = colon and precision in _PRECISIONS.get(type(TARGETS[name]), ())
    return f"{name}:{precision}{at}{computes}" if own else name


def is_built_for(manifest: Manifest, target: str) -> bool:
    """Whether a bundle has what `target` asks for. Raises InputError as `target_config`."""
    config = target_config(target)
    wanted = getattr(config, "precision", None) or "fp32"
    built = {e.compute for e in manifest.engines if e.precision == wanted}
    if not isinstance(config, TensorRTConfig | TorchTensorRTConfig):
        precisions = {e.precision for e in manifest.engines} or {"fp32"}  # of the programs themselves
        return manifest.backend == config.backend and wanted in precisions
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


@builds(TorchConfig)
def lower_for_torch(order: Order, config: TorchConfig) -> Made:
    """torch knows fewer operators than onnxruntime: those that it does not are told now, not by the first image."""
    made = lower(order, config)
    try:
        from ..runtime.onnx_torch.tape import unknown
    except ImportError:
        return made._replace(notes=(*made.notes, "torch is not here: it may not know all operators"))
    for file in order.files:
        model = onnx.load(order.folder / file, load_external_data=False)
        for what, got in unknown(model):
            raise EngineError(
                f"{what} of {Path(file).name} in torch",
                got=got,
                expected="operators and types that this backend knows",
                fix="Pass --target cuda or cuda:fp16, which onnxruntime runs, or write the program without it.",
            )
    return made


@builds(CudaConfig)
def lower(order: Order, config: CudaConfig | TorchConfig) -> Made:
    """onnxruntime and torch compile on load: what is built are files in the precision asked for."""
    load_in_onnxruntime(order, OrtConfig())
    if config.precision in (None, "fp32"):
        return Made()
    from .lowered_files import lower_files, weights_of

    engines, low = lower_files(order.folder, order.manifest, config.precision)
    return Made(engines, files=weights_of(engines), lowered=tuple(sorted(low)))


@builds(OrtConfig)
def load_in_onnxruntime(order: Order, config: OrtConfig) -> Made:
    """Each file is its own engine, and only has to load."""
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
