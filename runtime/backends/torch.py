"""The `torch` backend: engines are the bundle's ONNX files, run by torch on a GPU's memory, on the device's stream.

For GPUs that TensorRT-RTX does not support, where there is torch and no onnxruntime-gpu. Runs of shapes that come back
are replayed as CUDA graphs where that is faster (`device/replay.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ..device.array import CudaArray
from ..device.cuda import CudaDevice
from ..device.device import Device, DeviceArray, Shape
from ..device.engine import register_on_device
from ..device.host import HostArray, HostDevice
from ..device.queue import Queue
from ..device.recording import Work
from ..device.replay import Feeds, Prepared, Replays, own, recorded
from ..engine import Ports, TorchConfig
from ..errors import EngineError, MissingExtraError, told
from .ort import check_border

try:
    import torch

    from ..onnx_torch.program import TorchProgram
except ImportError as missing:
    raise MissingExtraError(missing.name or "torch", "export", "running a bundle by torch") from missing


class TorchEngine:
    """See `device.engine.DeviceEngine`."""

    def __init__(self, path: Path, config: TorchConfig, ports: Ports, device: Device):
        self.name, self._device = path.name, device
        self._stream: Any = None
        where = torch.device("cpu")
        if isinstance(device, CudaDevice):
            where = torch.device("cuda", device.queue.ordinal)
            self._stream = torch.cuda.ExternalStream(device.queue.stream, where)
        with self._current():
            self._program = TorchProgram(path, where, config.search)
        self.inputs, self.optional = self._program.inputs, self._program.optional
        has = self._program.outputs
        check_border(path, ports, self.inputs, has)
        self.outputs = tuple(t.name for t in (*ports.outputs, *ports.extras) if t.name in has)
        self._replays, self.capture = None, device.capture if config.graph else None
        if isinstance(device, CudaDevice) and config.graph:
            self._replays, self.capture = Replays[list[DeviceArray]](device), partial(self._capture, device)

    def most(self, sizes: Mapping[str, Shape]) -> int:
        return 0

    def run(self, feeds: Feeds) -> list[DeviceArray]:
        """Raises EngineError."""
        with self._current():
            if self._replays is None:
                return self._plain(feeds)
            shapes = tuple((name, feed.shape) for name, feed in sorted(feeds.items()))
            return self._replays.run(shapes, feeds, self._plain, self._prepare)

    def close(self) -> None:
        if self._replays is not None:
            self._replays.clear()
        if self._stream is not None:
            with contextlib.suppress(RuntimeError):  # of torch 2.11, behind a capture that failed
                torch.cuda.empty_cache()  # what it keeps for this stream alone

    def _plain(self, feeds: Feeds) -> list[DeviceArray]:
        made = [self._taken(made) for made in self._made(self._tensors(feeds))]
        if self._device.recording is not None:
            self._device.recording.hold(self._program.last)
        return made

    def _prepare(self, feeds: Feeds) -> Prepared[list[DeviceArray]]:
        assert self.capture is not None
        inputs, outputs, recording = recorded(self._device, self.capture, feeds, self._plain)
        return Prepared(inputs, partial(own, self._device, recording.launch, outputs), holds=(recording,))

    def _capture(self, device: CudaDevice, work: Work) -> Work:
        """By torch, which then takes memory of its own for it: the graphs of a queue share what they work in, for
        their runs follow each other. What somebody holds stays reserved."""
        queue, graph = device.queue, torch.cuda.CUDAGraph()
        queue.wait()
        with self._current(), queue.current(), queue.deferring(), self._graphing():
            graph.capture_begin(_pool(queue), capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()

        def launch() -> None:
            with self._current(), self._graphing():
                graph.replay()

        return launch

    @contextlib.contextmanager
    def _graphing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise EngineError(
                f"a CUDA graph with {self.name}",
                got=told(error),
                expected="ops that can be captured",
                fix="TorchConfig(graph=False) runs without.",
            ) from error

    def _made(self, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """C-contiguous, each in memory of its own."""
        try:
            made = self._program(tensors, self.outputs)
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
            raise EngineError(
                f"torch failed in {self.name}",
                got=f"{told(error)} (fed {shapes})",
                expected="a run without error",
                fix="Check the image's size against `foveate inspect`; backend='ort' runs the bundle on the CPU.",
            ) from error
        seen = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
        return [_own(value.contiguous(), seen) for value in made]

    def _tensors(self, feeds: Feeds) -> dict[str, torch.Tensor]:
        return {name: _tensor(feed) for name, feed in feeds.items()}

    def _taken(self, value: torch.Tensor) -> DeviceArray:
        if self._stream is None:
            assert isinstance(self._device, HostDevice)
            return self._device.made(value.numpy())
        found = self._device.adopt(value)
        assert found is not None  # it lies there
        return found

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """What torch queues, it queues on the device's stream."""
        if self._stream is None:
            yield
        else:
            with torch.cuda.stream(self._stream):
                yield


@register_on_device(TorchConfig)
def open_torch(path: Path, config: TorchConfig, ports: Ports, device: Device) -> TorchEngine:
    return TorchEngine(path, config, ports, device)


_first: WeakKeyDictionary[Queue, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = WeakKeyDictionary()


def _pool(queue: Queue) -> Any:
    """Of all graphs of a queue. The first one stays: torch takes no more into a pool that has lost its last."""
    if queue not in _first:
        graph, held = torch.cuda.CUDAGraph(), torch.empty(1, device=torch.device("cuda", queue.ordinal))
        graph.capture_begin(torch.cuda.graph_pool_handle(), capture_error_mode="thread_local")
        try:
            held.zero_()
        finally:
            graph.capture_end()
        _first[queue] = graph, held
    return _first[queue][0].pool()


def _tensor(array: DeviceArray) -> torch.Tensor:
    if isinstance(array, HostArray):
        return torch.from_numpy(array.values)
    assert isinstance(array, CudaArray)
    return torch.from_dlpack(array)


def _own(value: torch.Tensor, seen: set[int]) -> torch.Tensor:
    """A copy where it lies in what was fed, or was given out before."""
    if value.untyped_storage().data_ptr() in seen:
        value = value.clone()
    seen.add(value.untyped_storage().data_ptr())
    return value
