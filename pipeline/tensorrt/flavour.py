"""The two flavours of TensorRT, and what differs between them and their versions.

TensorRT-RTX (`tensorrt_rtx`) builds without a GPU, for any of the GPUs that it knows or for chosen ones. Full TensorRT
(`tensorrt`, 10 and 11) builds on the GPU that will run the engine, which it times. Nothing else in Foveate imports
either, or asks for a version.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.cuda_device import compute_capability
from ...runtime.errors import EngineError, InputError, MissingExtraError

RTX, FULL, TORCH = "tensorrt_rtx", "tensorrt", "torch_tensorrt"
ANY = "any"  # every GPU that TensorRT-RTX knows
_OLDEST = 10  # the first full TensorRT with strongly typed networks of dynamic shapes as they are used here


@dataclass(frozen=True)
class Flavour:
    """One of the two, as installed. `module` has its Python API."""

    name: str
    version: str
    module: Any

    @property
    def is_full(self) -> bool:
        return self.name == FULL

    @property
    def flags(self) -> tuple[str, ...]:
        """What engines are built with, beside their precision and profile."""
        return ("NO_TF32", "STRONGLY_TYPED")

    def network(self, builder: Any) -> Any:
        """An empty network, strongly typed: types are what the ONNX file says. Newer versions know no others, and may
        drop the flag."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that engines can be built for ahead of time."""
        members = getattr(getattr(self.module, "ComputeCapability", None), "__members__", {})
        return tuple(sorted((n.lower() for n in members if n.startswith("SM")), key=lambda n: int(n[2:])))

    def compute_of(self, compute: Sequence[str]) -> tuple[str, ...]:
        """For what engines are built where these compute capabilities are asked for; none leaves it to the flavour.
        Raises InputError."""
        if self.name in (FULL, TORCH):
            if compute:
                raise InputError(
                    f"target {self.name}",
                    got=f"@{','.join(compute)}",
                    expected="no compute capability: TensorRT builds for the GPU that it runs on",
                    fix="Leave @… out and build on that GPU, or install TensorRT-RTX: pip install 'foveate[tensorrt]'",
                )
            return (compute_capability() or ANY,)
        known = self.capabilities()
        for name in compute:
            if name not in known:
                fix = f"Take one of them, e.g. --target tensorrt@{known[-1]}."
                if name == "sm90":
                    fix = "For an H100 or H200 build for cpu, or with full TensorRT (pip install tensorrt) on that GPU."
                raise InputError(
                    f"compute capability {name}",
                    got=f"TensorRT-RTX {self.version}, which does not support it",
                    expected=f"one of {', '.join(known)}",
                    fix=fix,
                )
        return tuple(sorted(set(compute), key=lambda n: int(n[2:]))) or (ANY,)

    def configure(self, config: Any, compute: str) -> None:
        """Has a builder's config build for that compute capability, and keep float32 what it is: the builder's default,
        TF32, has 10 bits of fraction, no more than float16."""
        if (tf32 := getattr(self.module.BuilderFlag, "TF32", None)) is not None:
            config.clear_flag(tf32)
        if compute != ANY and not self.is_full:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self.module.ComputeCapability, compute.upper()), 0)

    @contextlib.contextmanager
    def logged(self) -> Iterator[list[str]]:
        """What the library says within the block: warnings and errors. One block at a time, for the library keeps the
        first logger that it is given."""
        with _BUILDING:
            lines = logger(self).lines
            lines.clear()
            yield lines


_BUILDING = threading.Lock()


def find_flavour(compute: Sequence[str] = ()) -> Flavour:
    """Full TensorRT where it is installed beside a GPU, else TensorRT-RTX. Compute capabilities, that only RTX can
    build for, ask for that one first. Raises MissingExtraError, EngineError."""
    order = [RTX, FULL] if compute or not compute_capability() else [FULL, RTX]
    for name in order:
        if importlib.util.find_spec(name) is not None:
            return open_flavour(name)
    raise MissingExtraError(RTX, "tensorrt", "building for target tensorrt")


@functools.cache
def open_flavour(name: str) -> Flavour:
    """Raises EngineError where it does not import, or is too old."""
    try:
        if name == RTX:
            complete_wheel()
        module = importlib.import_module(name)
        version = str(module.__version__)
    except Exception as error:  # a library that does not load may raise anything
        raise EngineError(
            f"importing {name}",
            got=f"{type(error).__name__}: {error}",
            expected="a TensorRT that loads",
            fix="pip install --force-reinstall 'foveate[tensorrt]'",
        ) from error
    if name == FULL and int(version.split(".")[0]) < _OLDEST:
        raise EngineError(
            "building for target tensorrt",
            got=f"TensorRT {version}",
            expected=f"TensorRT {_OLDEST} or newer, or TensorRT-RTX",
            fix="pip install -U tensorrt, or pip install 'foveate[tensorrt]'",
        )
    return Flavour(name, version, module)


def find_torch() -> Flavour:
    """Torch-TensorRT, which builds by the full TensorRT that it brings. Raises MissingExtraError, EngineError."""
    if importlib.util.find_spec(TORCH) is None:
        raise MissingExtraError(TORCH, "torch-tensorrt", "building for target torch_tensorrt")
    return open_flavour(TORCH)


@functools.cache
def logger(flavour: Flavour) -> Any:
    """The library's one logger, which keeps warnings and errors."""
    trt = flavour.module

    class Kept(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                self.lines.append(msg.strip())

    return Kept()


def complete_wheel() -> bool:
    """The parser opens libtensorrt_rtx.so when it meets a plugin, and the wheel for Linux has libtensorrt_rtx.so.1
    alone: the process would end. Adds the link beside it; False where that folder cannot be written."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        library, link = Path(folder) / "libtensorrt_rtx.so.1", Path(folder) / "libtensorrt_rtx.so"
        if library.is_file() and not link.exists():
            try:
                os.symlink(library.name, link)
            except FileExistsError:  # another process was faster
                pass
            except OSError:
                return False
    return True
