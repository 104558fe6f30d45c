"""TensorRT in the place of the real one: its objects, as far as engines use them, on a GPU that is none.

They refuse what TensorRT would crash of: a run without addresses, shapes or enough memory. test_engine.py holds their
names against those of the real library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from math import prod
from typing import Any

import numpy as np

from ..device.cuda.fake_driver import FakeLibrary

Shape = tuple[int, ...]
DataType = Enum("DataType", "FLOAT HALF INT64 INT32 INT8 UINT8 BOOL BF16")
TensorIOMode = Enum("TensorIOMode", "INPUT OUTPUT")
TensorLocation = Enum("TensorLocation", "DEVICE HOST")
ExecutionContextAllocationStrategy = Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED")
DynamicShapesKernelSpecializationStrategy = Enum(
    "DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE"
)
CudaGraphStrategy = Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
_NUMPY = {"FLOAT": np.float32, "INT64": np.int64, "BOOL": np.bool_, "HALF": np.float16}


@dataclass(frozen=True)
class Port:
    """`sizes`: least, opt and most shape of an input, and `others` in further profiles. `host`: its values are a
    shape."""

    dtype: str = "FLOAT"
    sizes: tuple[Shape, Shape, Shape] = ((1,), (1,), (1,))
    host: bool = False
    others: tuple[tuple[Shape, Shape, Shape], ...] = ()

    def at(self, profile: int) -> tuple[Shape, Shape, Shape]:
        return (self.sizes, *self.others)[profile]


@dataclass
class Network:
    """`shape` gives each output's from those of the inputs, −1 where only `compute` knows; `needs` bytes a run."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    shape: Callable[[dict[str, Shape]], dict[str, Shape]]
    compute: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    needs: Callable[[dict[str, Shape]], int] = lambda shapes: 4 * sum(map(prod, shapes.values()))
    made: list[FakeContext] = field(default_factory=list)


class FakeTensorRT:
    """The module. `networks`, by the bytes of their plans; `accepts` says of a plan why it does not fit. `log` is what
    the library says at its next failure."""

    def __init__(self, gpu: FakeLibrary, networks: dict[bytes, Network]):
        self.gpu, self.networks, self.log = gpu, networks, "it said why"
        self.__version__ = "1.7.1.116"
        self.logger: Any = None
        trt = self
        self.fails: set[str] = set()  # calls that give False or None

        class ILogger:
            class Severity(IntEnum):
                ERROR, WARNING, INFO = 1, 2, 3

            def log(self, severity: Any, msg: str) -> None: ...

        class Runtime:
            def __init__(self, logger: ILogger):
                trt.logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
                network = trt.networks.get(serialized_engine)
                return trt.failed() if network is None else FakeEngine(trt, network)

            def get_engine_validity(self, buffer: bytes) -> tuple[Any, Any]:
                return "INVALID", ["UNSUPPORTED_CC"]

        class IOutputAllocator:
            pass

        self.ILogger, self.Runtime, self.IOutputAllocator = ILogger, Runtime, IOutputAllocator
        for name, kind in globals().items():
            if isinstance(kind, type) and issubclass(kind, Enum) and kind is not Enum:
                setattr(self, name, kind)

    def failed(self) -> None:
        self.logger.log(self.ILogger.Severity.ERROR, self.log)
        self.logger.log(self.ILogger.Severity.INFO, "chatter")


class FakeEngine:
    """ICudaEngine."""

    def __init__(self, trt: FakeTensorRT, network: Network):
        self._trt, self._network = trt, network
        self._ports = {**network.inputs, **network.outputs}

    @property
    def num_optimization_profiles(self) -> int:
        return 1 + max(len(port.others) for port in self._network.inputs.values())

    @property
    def num_io_tensors(self) -> int:
        return len(self._ports)

    def get_tensor_name(self, index: int) -> str:
        return list(self._ports)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self._network.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._ports[name].dtype]

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.HOST if self._ports[name].host else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Shape:
        least, _, most = self._ports[name].sizes
        return tuple(a if a == b else -1 for a, b in zip(least, most, strict=True))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        assert -1 in self.get_tensor_shape(name) and name in self._network.inputs
        return list(self._ports[name].at(profile_index))

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, given: Any) -> FakeContext | None:
        if "create_execution_context" in self._trt.fails:
            return self._trt.failed()
        self._network.made.append(FakeContext(self._trt, self._network, given))
        return self._network.made[-1]


class FakeRuntimeCache:
    """IRuntimeCache."""

    def __init__(self) -> None:
        self.blob = b"nothing"

    def serialize(self) -> bytes:
        return self.blob

    def deserialize(self, blob: bytes) -> bool:
        self.blob = bytes(blob)
        return True


class FakeRuntimeConfig:
    """IRuntimeConfig."""

    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self) -> None:
        self.cache: FakeRuntimeCache | None = None
        self.memory = ExecutionContextAllocationStrategy.STATIC

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.memory = strategy


class FakeContext:
    """IExecutionContext. Each run compiles something, which the cache is told."""

    def __init__(self, trt: FakeTensorRT, network: Network, given: Any):
        self._trt, self._network, self.config = trt, network, given
        assert getattr(given, "memory", given) is ExecutionContextAllocationStrategy.USER_MANAGED
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._memory = (0, 0)
        self.profile = 0
        self.runs = 0

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert isinstance(shape, tuple) and not self._network.inputs[name].host
        least, _, most = self._network.inputs[name].at(self.profile)
        self._shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self._allocators[name] = output_allocator
        return True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile, self._shapes = profile_index, {}
        return True

    def infer_shapes(self) -> list[str]:
        wanted = [name for name, port in self._network.inputs.items() if not port.host]
        hosted = [name for name, port in self._network.inputs.items() if port.host]
        return [n for n in wanted if n not in self._shapes] + [n for n in hosted if n not in self._addresses]

    def get_tensor_shape(self, name: str) -> Shape:
        assert not self.infer_shapes()
        return self._network.shape(self._shapes)[name]

    def update_device_memory_size_for_shapes(self) -> int:
        assert not self.infer_shapes()
        return self._network.needs(self._shapes)

    def is_stream_capturable(self, stream: int) -> bool:
        return "is_stream_capturable" not in self._trt.fails

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        if "execute_async_v3" in self._trt.fails:
            self._trt.failed()
            return False
        self.runs += 1
        if (cache := getattr(self.config, "cache", None)) is not None:
            cache.blob = f"kernels of {len(self._network.made)} contexts".encode()
        assert self._memory[0] and self._memory[1] >= self.update_device_memory_size_for_shapes()
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        given = self._network.shape(shapes)
        if late := {name for name, shape in given.items() if -1 in shape}:
            return self._run_now(stream_handle, shapes, addresses, late)
        assert set(given) <= set(addresses)
        hosted = self._hosted(addresses)

        def work() -> None:
            for name, value in self._compute(shapes, addresses, hosted).items():
                self._write(name, addresses[name], value)

        self._trt.gpu.queue(stream_handle, work)
        return True

    def _run_now(
        self, stream: int, shapes: dict[str, Shape], addresses: dict[str, int], late: set[str]
    ) -> bool:
        """Shapes that only the data tell are known before the call returns."""
        assert self._trt.gpu.captured is None
        self._trt.gpu.run(stream)
        for name, value in self._compute(shapes, addresses, self._hosted(addresses)).items():
            if name in late:
                pointer = self._allocators[name].reallocate_output_async(name, 0, value.nbytes, 256, stream)
                if not pointer:
                    self._trt.failed()
                    return False
                self._allocators[name].notify_shape(name, list(value.shape))
                addresses[name] = pointer
            self._write(name, addresses[name], value)
        return True

    def _hosted(self, addresses: dict[str, int]) -> dict[str, np.ndarray]:
        """Read when a run is queued."""
        ports = {name: port for name, port in self._network.inputs.items() if port.host}
        return {n: _view(addresses[n], port.sizes[0], port.dtype).copy() for n, port in ports.items()}

    def _compute(
        self, shapes: dict[str, Shape], addresses: dict[str, int], hosted: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        ports = {name: port for name, port in self._network.inputs.items() if not port.host}
        read = {name: _view(addresses[name], shapes[name], port.dtype) for name, port in ports.items()}
        return self._network.compute(read | hosted)

    def _write(self, name: str, address: int, value: np.ndarray) -> None:
        _view(address, value.shape, self._network.outputs[name].dtype)[...] = value


def _view(address: int, shape: Shape, kind: str) -> np.ndarray:
    dtype = np.dtype(_NUMPY[kind])
    memory = (ctypes.c_ubyte * (prod(shape) * dtype.itemsize)).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
