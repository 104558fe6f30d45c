"""The two flavours of TensorRT: which is installed, and what differs between them when engines run.

TensorRT-RTX (`tensorrt_rtx`) engines hold what its own compiler, within the process, makes kernels of when they are
loaded; full TensorRT's (`tensorrt`, 10 and 11) hold kernels. Nothing else in Foveate imports either, or asks for a
version, but pipeline/tensorrt/flavour.py: what differs when they are built.
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

from ..errors import EngineError, InternalError

RTX, FULL = "tensorrt_rtx", "tensorrt"
_OLDEST = 10  # the first full TensorRT with strongly typed networks of dynamic shapes as they are used here
_KEPT = 200  # lines of the log
_SAID = 6  # of them in an error


@dataclass(frozen=True)
class Flavour:
    """One of the two, as installed. `module` has its Python API."""

    name: str
    version: str
    module: Any

    @property
    def is_full(self) -> bool:
        return self.name == FULL

    @contextlib.contextmanager
    def logged(self) -> Iterator[list[str]]:
        """What the library says within the block: warnings and errors. One block at a time, for the library keeps the
        first logger that it is given."""
        with _LOGGING:
            lines = logger(self).lines
            lines.clear()
            yield lines

    def runtime(self) -> Any:
        """What deserializes engines."""
        return self.module.Runtime(logger(self))

    def contexts(self, engine: Any, jit: bytes = b"") -> Contexts:
        """What makes the execution contexts of a deserialized engine. `jit`: of `Contexts.jit`."""
        return Contexts(self, engine) if self.is_full else RtxContexts(self, engine, jit)

    def why_invalid(self, runtime: Any, plan: bytes) -> str:
        """Why an engine does not fit this machine, as far as TensorRT-RTX says; full TensorRT only logs."""
        if not hasattr(runtime, "get_engine_validity"):
            return ""
        validity, reasons = runtime.get_engine_validity(plan)
        return f"{getattr(validity, 'name', validity)}: {reasons}"


class Contexts:
    """Makes execution contexts of full TensorRT, none with device memory of its own. `captures`: there are such that
    capture their runs as CUDA graphs themselves."""

    captures = False

    def __init__(self, flavour: Flavour, engine: Any):
        self._trt, self._engine = flavour.module, engine

    def any_shape(self) -> Any:
        """For runs of shapes that come and go."""
        return self._engine.create_execution_context(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )

    def one_shape(self) -> Any:
        """For runs of one shape, on the same memory, that others capture."""
        return self.any_shape()

    def capturable(self, context: Any, stream: int) -> bool:
        """Whether runs of a context of `one_shape` can be."""
        return True

    def capturing(self) -> Any:
        """For runs of one shape, on the same memory, that it captures itself."""
        raise InternalError("full TensorRT captures nothing itself")

    def jit(self) -> bytes:
        """What was compiled so far, within this process."""
        return b""


class RtxContexts(Contexts):
    """Of TensorRT-RTX. For shapes that come and go it compiles kernels in the background while general ones run; for
    one that stays at once, since a graph would hold the general ones."""

    captures = True

    def __init__(self, flavour: Flavour, engine: Any, jit: bytes):
        super().__init__(flavour, engine)
        self._configs = [engine.create_runtime_config()]  # as long as what is made of them
        self._cache = self._configs[0].create_runtime_cache()
        if jit:
            self._cache.deserialize(jit)  # False for one of another machine or version, and nothing is lost

    def any_shape(self) -> Any:
        return self._make("LAZY", "DISABLED")

    def one_shape(self) -> Any:
        return self._make("EAGER", "DISABLED")

    def capturable(self, context: Any, stream: int) -> bool:
        return context.is_stream_capturable(stream)

    def capturing(self) -> Any:
        return self._make("EAGER", "WHOLE_GRAPH_CAPTURE")

    def _make(self, kernels: str, graphs: str) -> Any:
        trt, config = self._trt, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        specialization = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = getattr(specialization, kernels)
        config.cuda_graph_strategy = getattr(trt.CudaGraphStrategy, graphs)
        config.set_runtime_cache(self._cache)
        self._configs.append(config)
        return self._engine.create_execution_context(config)

    def jit(self) -> bytes:
        made = self._cache.serialize()
        return b"" if made is None else bytes(made)


_LOGGING = threading.Lock()


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
            "engines for NVIDIA GPUs",
            got=f"TensorRT {version}",
            expected=f"TensorRT {_OLDEST} or newer, or TensorRT-RTX",
            fix="pip install -U tensorrt, or pip install 'foveate[tensorrt]'",
        )
    return Flavour(name, version, module)


def logger(flavour: Flavour) -> Any:
    """The library's one logger, which keeps the last warnings and errors as `lines`."""
    return _logger(flavour.module)


@functools.cache
def _logger(trt: Any) -> Any:
    class Kept(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                self.lines.append(msg.strip())
                del self.lines[:-_KEPT]

    return Kept()


def said(log: Sequence[str]) -> str:
    """The end of a log, for an error."""
    return " / ".join(dict.fromkeys(log[-_SAID:])) or "no engine, and nothing in its log"


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
