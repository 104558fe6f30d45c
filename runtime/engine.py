"""Engines: one segment compiled for one backend, chosen by the type of its config.

A backend is a file in `backends/` that registers an opener for its config. It is imported when its config is first
used, so that a runtime without onnxruntime still imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from .errors import InputError, InternalError, did_you_mean
from .manifest import TensorSpec


@dataclass(frozen=True)
class Ports:
    """What the manifest knows of an engine's border: the tensors it reads and the ones it is asked for, in order.
    `extras` are asked for where the engine has them. `sizes`: of symbolic dims, by name, where the engine shall take
    no other."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    extras: tuple[TensorSpec, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


class Border(Protocol):
    """What an engine takes and gives. `optional` are inputs with a default: the choices."""

    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def optional(self) -> tuple[str, ...]: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...

    def close(self) -> None: ...


class Engine(Border, Protocol):
    """Runs one segment. Safe for concurrent callers."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs in order, as fresh arrays that the caller owns. Feeds are C-contiguous and only read."""
        ...


@dataclass(frozen=True)
class OrtConfig:
    """onnxruntime on the CPU. `threads` of each engine's own pool; 0 takes one per physical core.

    `spin_us`: how long a thread without work waits actively for more, within a run and never between runs; 0 not at
    all, None to the run's end. Fifty microseconds bridge the gap between two ops and save 4 to 8 %, as None does; ten
    save 2 % less. Where other programs want the cores, they cost 1 %, 200 a quarter, and None 1.5 times the time.
    onnxruntime before 1.26 knows 0 and None alone, and takes other values for 0.

    isa: instruction set of the native kernels, where a bundle has work for them: "best", "portable", "avx2", "avx512",
        "avx512_vnni" (which differ for int8 alone).
    """

    backend: ClassVar[str] = "ort"
    threads: int = 0
    log_severity: int = 3
    spin_us: int | None = 50
    isa: str = "best"


@dataclass(frozen=True)
class NullConfig:
    """No device: every output is `fill` in the right shape. With `fill` 1 every mask is fully active, with 0 empty."""

    backend: ClassVar[str] = "null"
    threads: int = 0
    fill: float = 0.0


LOWERED = {"cuda": ("fp16",), "torch": ("fp16", "bf16")}
"""By backend that computes in the types of its files, in what else than float32 a bundle may have them."""
# Of TensorRT. What a program in int8 has in floats runs in fp16, but for "int8+fp32" and "int8+bf16".
PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8", "fp8+bf16", "int8+bf16", "fp8+fp32", "int8+fp32")


def parts(precision: str) -> tuple[str, str]:
    """What a program is quantized to ("" for none) and what its floats run in: ("int8", "fp16") for "int8"."""
    kind, _, floats = precision.partition("+")
    return (kind, floats or "fp16") if kind in ("fp8", "int8") else ("", kind)


@dataclass(frozen=True)
class TensorRTConfig:
    """Engines of TensorRT or TensorRT-RTX. `precision`: one of PRECISIONS; those of "fp8" and "int8" for programs that
    are quantized. `compute`: the compute capabilities to build for, such as "sm89"; none: whatever the flavour knows.
    `graph`: runs of shapes that come back become CUDA graphs, where that is measured to be faster.
    """

    backend: ClassVar[str] = "tensorrt"
    threads: int = 0
    precision: str = "fp32"
    compute: tuple[str, ...] = ()
    graph: bool = True


@dataclass(frozen=True)
class TorchTensorRTConfig:
    """Engines that Torch-TensorRT built, for the GPU that it ran on, and that it runs. Fields as in TensorRTConfig."""

    backend: ClassVar[str] = "torch_tensorrt"
    threads: int = 0
    precision: str = "fp32"
    compute: tuple[str, ...] = ()


@dataclass(frozen=True)
class CudaConfig:
    """onnxruntime-gpu on an NVIDIA GPU. `threads` for nodes that the provider has not.

    provider: "cuda", or "tensorrt", which builds engines of its own when it first sees a shape, and keeps them below
        ~/.cache/foveate (FOVEATE_CACHE).
    precision: None is the bundle's, as it was built. "fp16" wants one that was built so; "fp32" runs the program
        itself, and so does "tf32", which computes float32 values with 10 bits of fraction. Provider "tensorrt" takes
        "fp32", "fp16" and "bf16", of any bundle.
    graph: runs of shapes that come back become CUDA graphs, where that is measured to be faster. Programs with nodes
        that run on the CPU, or with control flow, have none.
    nhwc: convolutions work channels last, which tensor cores want.
    """

    backend: ClassVar[str] = "cuda"
    threads: int = 0
    provider: str = "cuda"
    precision: str | None = None
    graph: bool = False
    nhwc: bool = False


@dataclass(frozen=True)
class TorchConfig:
    """torch, in the types of the bundle's files.

    precision: None is the bundle's, as it was built. "fp16" and "bf16" want one that was built so, "fp32" runs the
        program itself.
    device: "cuda", or "cpu": in this machine's memory, to try out what runs on a GPU.
    graph: runs of shapes that come back become CUDA graphs, where that is measured to be faster.
    search: cuDNN tries its algorithms on each new shape, instead of taking the one that it expects to be fastest."""

    backend: ClassVar[str] = "torch"
    threads: int = 0
    precision: str | None = None
    device: str = "cuda"
    graph: bool = True
    search: bool = False


Config = OrtConfig | NullConfig | TensorRTConfig | TorchTensorRTConfig | CudaConfig | TorchConfig
Opener = Callable[[Path, "Config", Ports], Engine]
F = TypeVar("F", bound=Callable[..., Any])

CONFIGS: dict[str, type[Config]] = {
    config.backend: config
    for config in (OrtConfig, NullConfig, TensorRTConfig, TorchTensorRTConfig, CudaConfig, TorchConfig)
}
_OPENERS: dict[type, Opener] = {}


def by_config(table: dict[type, F], what: str) -> Callable[[type], Callable[[F], F]]:
    """A decorator factory: `@decorator(OrtConfig)` enters a function in `table` under the config's type, once."""

    def for_config(config: type) -> Callable[[F], F]:
        def add(function: F) -> F:
            if config in table:
                raise InternalError(f"two {what} {config.__name__}")
            table[config] = function
            return function

        return add

    return for_config


register = by_config(_OPENERS, "openers for engines of")


def config_for(backend: str, threads: int | None) -> Config:
    """The config of a backend's name. Raises InputError for an unknown name or a negative number of threads."""
    if backend not in CONFIGS:
        raise InputError(
            "backend",
            got=repr(backend),
            expected=f"one of {', '.join(CONFIGS)}",
            fix=did_you_mean(backend, CONFIGS, "Pass backend='ort' to foveate.load."),
        )
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 0):
        raise InputError(
            "threads",
            got=repr(threads),
            expected="an integer ≥ 0",
            fix="Leave it out, or pass 0, for one thread per physical core.",
        )
    return CONFIGS[backend](threads=threads or 0)


def fed(feeds: Mapping[str, Any]) -> str:
    """What a run was given, for an error."""
    shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feeds.items())
    return f"(fed {shapes})"


def open_engine(path: Path, config: Config, ports: Ports) -> Engine:
    """Opens the engine of one ONNX file. Raises MissingExtraError, EngineError."""
    kind = type(config)
    if kind not in _OPENERS:
        importlib.import_module(f".backends.{config.backend}", __package__)
    if kind not in _OPENERS:
        raise InternalError(f"runtime/backends/{config.backend}.py registers no opener for {kind.__name__}")
    return _OPENERS[kind](path, config, ports)
