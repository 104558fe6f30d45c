"""The `ort` backend: engines are onnxruntime sessions on the CPU, each with its own thread pool.

Many sessions live in one process, so each stops spinning the moment its run returns: otherwise the pools fight for
the cores (16 sessions took 2.3 times as long as one; with this entry 0.98 times). The global pool is never used, it
would change the host program's own sessions.

They share one arena, for each would keep what its largest run took: the six engines of a vision transformer with exits
held 2.8 times what the one session of the whole program holds, on a batch of eight, and with this entry 1.0 times.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import Config, OrtConfig, Ports, fed, register
from ..errors import EngineError, InputError, MissingExtraError, first_line
from ..native.library import ISAS, library
from ..native.library import path as library_path

_TIMED_SPINNING = (1, 26)  # the onnxruntime that first knows session.intra_op.spin_duration_us


class OrtEngine:
    """One onnxruntime session. See `engine.Engine`."""

    def __init__(self, path: Path, config: OrtConfig, ports: Ports):
        self.name = path.name
        self._session: Any = _open_session(path, config, ports.sizes)
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.optional = tuple(i.name for i in self._session.get_overridable_initializers())
        has = [o.name for o in self._session.get_outputs()]
        check_border(path, ports, self.inputs, has)
        self.outputs = tuple(t.name for t in (*ports.outputs, *ports.extras) if t.name in has)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if self._session is None:
            raise EngineError(
                self.name,
                got="a run after close()",
                expected="an open model",
                fix="Load the bundle again with foveate.load.",
            )
        try:
            return self._session.run(self.outputs, feeds)
        except Exception as error:
            raise EngineError(
                f"onnxruntime failed in {self.name}",
                got=f"{first_line(error)} {fed(feeds)}",
                expected="a run without error",
                fix="Check the image's size against `foveate inspect`; model.dense(images) runs the uncut program.",
            ) from error

    def close(self) -> None:
        self._session = None


@register(OrtConfig)
def open_ort(path: Path, config: Config, ports: Ports) -> OrtEngine:
    assert isinstance(config, OrtConfig)
    return OrtEngine(path, config, ports)


def _open_session(path: Path, config: OrtConfig, sizes: Mapping[str, int]) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "running a bundle on the CPU") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = config.log_severity
    spin(options, config.spin_us)
    _share_arena(options)
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    try:
        use_kernels(options, config.isa)
        return cpu_session(str(path), options)
    except Exception as error:
        raise EngineError(
            f"onnxruntime cannot open {path}",
            got=first_line(error),
            expected=f"a program that onnxruntime {ort.__version__} runs",
            fix="Build the bundle again with `foveate build`, or upgrade onnxruntime.",
        ) from error


def cpu_session(source: str | bytes, options: Any) -> Any:
    """A session of a file, or of a serialized model. onnxruntime (1.31) fuses Q/DQ of float8 into ops for integers,
    which refuse them: such a model is opened without fusions of Q/DQ, and changes `options`."""
    import onnxruntime as ort

    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common root of their own
        if "float8" not in str(error):
            raise
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _share_arena(options: Any) -> None:
    """Sessions take their memory from the arena that is registered with onnxruntime; others of the host program are not
    touched. In a forked child each has its own, for a thread that is not there may hold the lock of the shared one."""
    if _register_arena() == os.getpid():
        options.add_session_config_entry("session.use_env_allocators", "1")


@cache
def _register_arena() -> int:
    """Registers an arena, if the host program has not, and gives the id of the process that it belongs to."""
    import onnxruntime as ort

    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(kind, ort.OrtArenaCfg(0, -1, -1, -1))
    except Exception as error:  # onnxruntime's exceptions have no common root of their own
        if "already" not in str(error):
            raise
    return os.getpid()


def spin(options: Any, us: int | None) -> None:
    """Sets how long threads wait actively within a run: `OrtConfig.spin_us`."""
    import onnxruntime as ort

    if us is not None and (type(us) is not int or us < 0):
        raise InputError(
            "spin_us",
            got=repr(us),
            expected="whole microseconds from 0, or None",
            fix="Leave it at its default.",
        )
    timed = tuple(int(part) for part in ort.__version__.split(".")[:2]) >= _TIMED_SPINNING
    spins = us is None or (timed and us > 0)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    if spins and us is not None:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(us))


def use_kernels(options: Any, isa: str = "best") -> None:
    """Sessions run the nodes of ai.foveate that the native library has kernels for by these, on their own threads, in
    place of the function bodies. Nothing changes where the library is missing."""
    if library() is not None:
        options.add_session_config_entry("foveate.isa", str(ISAS.index(isa)))
        options.register_custom_ops_library(str(library_path()))


def check_border(path: Path, ports: Ports, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raises EngineError where a file's inputs and outputs are not those that the manifest says."""
    wanted, given = {t.name for t in ports.outputs}, {t.name for t in ports.inputs}
    if not wanted <= set(outputs) or not set(inputs) <= given:
        raise EngineError(
            f"{path} does not fit its manifest",
            got=f"inputs {sorted(inputs)}, outputs {sorted(outputs)}",
            expected=f"inputs among {sorted(given)}, outputs {sorted(wanted)}",
            fix="Build the bundle again with `foveate build`.",
        )
