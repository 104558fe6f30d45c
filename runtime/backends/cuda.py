"""The `cuda` backend: engines are sessions of onnxruntime-gpu on a GPU's memory, on the device's stream.

Inputs are bound where they lie, outputs are taken over from onnxruntime's arena, which has them back when nobody holds
them. A run is only queued; nodes that the provider has not run on the CPU, with a wait for each. Nodes of ai.foveate
run by their function bodies: the native kernels are the CPU's, and would fetch their inputs there.

Convolution algorithms are chosen by cuDNN's heuristics. Searching among them (onnxruntime's default) would run them all
for each new shape, and windows come in many; and it may choose another one each time, with other roundings.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..device.array import CudaArray, Memory
from ..device.cuda import CudaDevice
from ..device.device import DeviceArray, Shape
from ..device.engine import register_on_device
from ..device.replay import Feeds, Prepared, Replays, own
from ..engine import LOWERED, CudaConfig, Ports, fed
from ..errors import EngineError, InputError, MissingExtraError, did_you_mean, told
from ..files import cache_folder
from .ort import check_border

_LOG = logging.getLogger("foveate")
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_PRECISIONS = {"cuda": ("fp32", "tf32", *LOWERED["cuda"]), "tensorrt": ("fp32", "fp16", "bf16")}
_DEVICE = "cuda"  # as onnxruntime calls it
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_WARM = 4  # runs of a new graph: two as they are, one that is captured, one replayed
_GRAPHS = 32  # of a session, which cannot forget one


class CudaEngine:
    """One session. See `device.engine.DeviceEngine`."""

    capture = None  # onnxruntime captures runs itself, each alone

    def __init__(self, path: Path, config: CudaConfig, ports: Ports, device: CudaDevice):
        self.name, self._device, self._graphs = path.name, device, 0
        self._session: Any
        with device.queue.current():
            self._session, captures = _open(path, config, ports.sizes, device)
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.optional = tuple(i.name for i in self._session.get_overridable_initializers())
        has = [o.name for o in self._session.get_outputs()]
        check_border(path, ports, self.inputs, has)
        self.outputs = tuple(t.name for t in (*ports.outputs, *ports.extras) if t.name in has)
        self._queued = _run_options("-1" if captures else None)
        self._replays = Replays[list[DeviceArray]](device) if captures else None

    def most(self, sizes: Mapping[str, Shape]) -> int:
        return 0

    def run(self, feeds: Feeds) -> list[DeviceArray]:
        """Raises EngineError."""
        with self._device.queue.current():
            if self._replays is None:
                return self._plain(feeds)
            shapes = tuple((name, feed.shape) for name, feed in sorted(feeds.items()))
            return self._replays.run(shapes, feeds, self._plain, self._prepare)

    def close(self) -> None:
        self._replays, self._session = None, None

    def _plain(self, feeds: Feeds) -> list[DeviceArray]:
        binding = self._bind(feeds)
        for name in self.outputs:
            binding.bind_output(name, _DEVICE, self._device.queue.ordinal)
        self._launch(binding, self._queued, feeds)
        return [self._taken(value) for value in binding.get_outputs()]

    def _prepare(self, feeds: Feeds) -> Prepared[list[DeviceArray]] | None:
        """A graph that onnxruntime captures and replays, of the buffers of one binding. It does so for each thread."""
        if self._graphs == _GRAPHS:
            return None
        self._graphs += 1
        inputs = {name: self._device.copy(feed) for name, feed in feeds.items()}
        outputs = [self._device.empty(made.shape, made.dtype) for made in self._plain(feeds)]
        binding = self._bind(inputs)
        for name, made in zip(self.outputs, outputs, strict=True):
            binding.bind_output(
                name, _DEVICE, self._device.queue.ordinal, made.dtype, made.shape, made.pointer
            )
        launch = partial(self._launch, binding, _run_options(str(self._graphs)), inputs)
        with self._device.queue.deferring():  # onnxruntime captures by itself
            for _ in range(_WARM):
                launch()
        return Prepared(inputs, partial(own, self._device, launch, outputs))

    def _bind(self, feeds: Feeds) -> Any:
        if self._session is None:
            raise EngineError(
                self.name,
                got="a run after close()",
                expected="an open model",
                fix="Load the bundle again with foveate.load.",
            )
        binding = self._session.io_binding()
        for name, feed in feeds.items():
            binding.bind_input(
                name, _DEVICE, self._device.queue.ordinal, feed.dtype, feed.shape, feed.pointer
            )
        return binding

    def _launch(self, binding: Any, options: Any, feeds: Feeds) -> None:
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # onnxruntime's exceptions have no common root of their own
            raise EngineError(
                f"onnxruntime failed in {self.name}, on the GPU",
                got=f"{told(error)} {fed(feeds)}",
                expected="a run without error",
                fix="Check the image's size against `foveate inspect`; backend='ort' runs the bundle on the CPU.",
            ) from error

    def _taken(self, value: Any) -> CudaArray:
        """An output, which goes back to onnxruntime's arena with its last reference. All that use the arena are queued
        on our stream, so that it may be used again at once."""
        kept = [value]
        memory = Memory(self._device.queue, value.data_ptr(), kept.clear)
        return CudaArray(memory, tuple(value.shape()), np.dtype(_DTYPES[value.data_type()]))


@register_on_device(CudaConfig)
def open_cuda(path: Path, config: CudaConfig, ports: Ports, device: CudaDevice) -> CudaEngine:
    return CudaEngine(path, config, ports, device)


def _open(path: Path, config: CudaConfig, sizes: Mapping[str, int], device: CudaDevice) -> tuple[Any, bool]:
    """The session, and whether it can capture graphs: not all programs can be."""
    _check(config)
    if not config.graph:
        return _open_session(path, config, sizes, device, False), False
    try:
        return _open_session(path, config, sizes, device, True), True
    except EngineError as error:
        _LOG.info("%s runs without CUDA graphs: %s", path.name, error.got)
        return _open_session(path, config, sizes, device, False), False


def _check(config: CudaConfig) -> None:
    if config.provider not in PROVIDERS:
        raise InputError(
            "provider",
            got=repr(config.provider),
            expected=f"one of {', '.join(PROVIDERS)}",
            fix=did_you_mean(config.provider, PROVIDERS, "Leave it out for cuda."),
        )
    if config.precision is not None and config.precision not in _PRECISIONS[config.provider]:
        raise InputError(
            f"precision of provider {config.provider!r}",
            got=repr(config.precision),
            expected=f"one of {', '.join(_PRECISIONS[config.provider])}",
            fix="The CUDA provider computes in the types of its files: foveate build --target cuda:fp16.",
        )
    if config.graph and config.provider != "cuda":
        raise InputError(
            "graph",
            got=f"provider {config.provider!r}",
            expected="provider 'cuda'",
            fix="Leave graph out, or build for target tensorrt.",
        )
    import onnxruntime

    if PROVIDERS[config.provider] not in onnxruntime.get_available_providers():
        raise MissingExtraError(
            "onnxruntime-gpu", "gpu", f"running a bundle by the {config.provider} provider"
        )


def _open_session(
    path: Path, config: CudaConfig, sizes: Mapping[str, int], device: CudaDevice, captures: bool
) -> Any:
    import onnxruntime as ort

    said = _preload()
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads or 1  # for nodes that the provider has not
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers(config, device, captures))
    except Exception as error:
        raise EngineError(
            f"onnxruntime cannot open {path} on the GPU",
            got=told(error),
            expected=f"a program that onnxruntime {ort.__version__} runs",
            fix="See `foveate doctor`; backend='ort' runs the bundle on the CPU.",
        ) from error
    if (wanted := PROVIDERS[config.provider]) not in session.get_providers():
        raise EngineError(
            f"onnxruntime's provider {wanted}",
            got=f"none that loads; {said or 'see its log'}",
            expected="the CUDA and cuDNN libraries that it was built for",
            fix="pip install 'onnxruntime-gpu[cuda,cudnn]'; https://onnxruntime.ai/docs/install says which versions.",
        )
    return session


def providers(config: CudaConfig, device: CudaDevice, captures: bool) -> list[tuple[str, dict[str, str]]]:
    """With their options, the first that knows a node has it. float32 is float32, unless "tf32" is asked for."""
    common = {"device_id": str(device.queue.ordinal), "user_compute_stream": str(device.queue.stream)}
    cuda = common | {
        "do_copy_in_default_stream": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": str(int(config.precision == "tf32")),
        "prefer_nhwc": str(int(config.nhwc)),
        "enable_cuda_graph": str(int(captures)),
    }
    chosen = [(PROVIDERS["cuda"], cuda)]
    if config.provider == "tensorrt":
        folder = str(cache_folder("onnxruntime-tensorrt"))
        tensorrt = common | {
            "trt_fp16_enable": str(int(config.precision == "fp16")),
            "trt_bf16_enable": str(int(config.precision == "bf16")),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
        chosen.insert(0, (PROVIDERS["tensorrt"], tensorrt))
    return chosen


@functools.cache
def _preload() -> str:
    """Has onnxruntime load CUDA's libraries from their wheels; what it prints of those that it does not find."""
    import onnxruntime as ort

    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
    return " / ".join(said.getvalue().split("\n")).strip(" /")


def _run_options(graph: str | None) -> Any:
    """Of runs that nothing waits for. `graph`: the number of the one that they make and replay, "-1" for none; None
    where the session has no graphs."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", graph)
    return options
