"""An execution context of an engine: the shapes that it was last given, and where its outputs go."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..device.array import CudaArray
from ..device.cuda import CudaDevice
from ..device.device import DeviceArray, Shape
from ..device.replay import Feeds
from ..engine import Ports
from ..errors import EngineError, FoveateError
from .flavour import logger, said
from .plan import REBUILD, Plan


class Context:
    """Runs a plan, on the device's queue. `context`: TensorRT's own, without device memory. `needs`: bytes of that, for
    the shapes that are set."""

    def __init__(self, plan: Plan, ports: Ports, device: CudaDevice, context: Any):
        if context is None:
            raise _failed(plan, "making an execution context")
        self._plan, self._ports, self._device, self._context = plan, ports, device, context
        self._shapes: tuple[Any, ...] | None = None
        self._profile = 0
        self._lent: tuple[int, int] | None = None
        self._hosted: Mapping[str, np.ndarray] = {}
        self._allocators: dict[str, Any] = {}
        self.output_shapes: dict[str, Shape | None] = {}  # None: known once it has run
        self.needs = 0

    def set_shapes(self, feeds: Feeds) -> bool:
        """Whether they are others than before. Raises InputError where the plan was not built for them."""
        plan, context = self._plan, self._context
        hosted = self._read_host(feeds)
        shapes = (*(feeds[name].shape for name in plan.inputs), *(v.tobytes() for v in hosted.values()))
        if shapes == self._shapes:
            return False
        self._shapes = None  # of a context in between
        profile = plan.profile(feeds, self._ports)
        if profile != self._profile:
            self._check(
                context.set_optimization_profile_async(profile, self._device.queue.stream), "a profile"
            )
            self._profile = profile
        for name in plan.inputs:
            if name in hosted:
                self._check(context.set_tensor_address(name, hosted[name].ctypes.data), f"{name!r}")
            else:
                self._check(context.set_input_shape(name, tuple(feeds[name].shape)), f"the shape of {name!r}")
        self._hosted = hosted  # TensorRT keeps the addresses
        if missing := context.infer_shapes():
            raise _failed(plan, f"inferring shapes without {', '.join(missing)}")
        self.output_shapes = {name: _known(tuple(context.get_tensor_shape(name))) for name in plan.outputs}
        self.needs = context.update_device_memory_size_for_shapes()
        self._lent = None
        self._shapes = shapes
        return True

    def lend(self, memory: CudaArray) -> None:
        """What it works in: `needs` bytes or more, which stay the caller's."""
        if self._lent != (memory.pointer, memory.nbytes):
            self._lent = memory.pointer, memory.nbytes
            self._context.set_device_memory(*self._lent)

    def bind(self, feeds: Feeds) -> dict[str, CudaArray | None]:
        """Sets what `execute` reads and writes: new memory for outputs, None for one whose shape is not known yet."""
        made: dict[str, CudaArray | None] = {}
        for name in self._plan.inputs:
            if name not in self._hosted:
                self._check(self._context.set_tensor_address(name, feeds[name].pointer), f"{name!r}")
        for name, shape in self.output_shapes.items():
            if shape is None:
                self._check(self._context.set_output_allocator(name, self._allocator(name)), f"{name!r}")
                made[name] = None
            else:
                array = self._device.empty(shape, self._plan.dtypes[name])
                self._check(self._context.set_tensor_address(name, array.pointer), f"{name!r}")
                made[name] = array
        return made

    def execute(self) -> None:
        if not self._context.execute_async_v3(self._device.queue.stream):
            for allocator in self._allocators.values():
                if allocator.error is not None:
                    raise allocator.error
            raise _failed(self._plan, "running it")

    def run(self, feeds: Feeds, names: Sequence[str]) -> list[DeviceArray]:
        made = self.bind(feeds)
        self.execute()
        return [self._finished(name, made[name]) for name in names]

    def _finished(self, name: str, array: CudaArray | None) -> CudaArray:
        return array if array is not None else self._allocators[name].take(self._plan.dtypes[name])

    def _allocator(self, name: str) -> Any:
        if name not in self._allocators:
            self._allocators[name] = _allocator_class(self._plan.flavour.module)(self._device)
        return self._allocators[name]

    def _read_host(self, feeds: Feeds) -> dict[str, np.ndarray]:
        names = self._plan.host
        return dict(zip(names, self._device.get([feeds[n] for n in names]), strict=True)) if names else {}

    def _check(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise _failed(self._plan, f"setting {what}")


def _known(shape: Shape) -> Shape | None:
    return None if -1 in shape else shape


def _failed(plan: Plan, doing: str) -> EngineError:
    return EngineError(
        f"TensorRT failed in {plan.name}, {doing}",
        got=said(logger(plan.flavour).lines),
        expected=f"{plan.flavour.name} {plan.flavour.version} to do it",
        fix=REBUILD,
    )


@functools.cache
def _allocator_class(trt: Any) -> Any:
    class Allocator(trt.IOutputAllocator):
        """Memory for one output whose shape only the data tell. TensorRT calls it while a run is queued; an error must
        not pass through it."""

        def __init__(self, device: CudaDevice):
            trt.IOutputAllocator.__init__(self)
            self._device = device
            self._array: CudaArray | None = None
            self._shape: Shape = ()
            self.error: FoveateError | None = None

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            try:
                self._array, self.error = self._device.empty((size,), np.uint8), None
                return self._array.pointer
            except FoveateError as error:
                self.error = error
                return 0

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return self.reallocate_output_async(tensor_name, memory, size, alignment, 0)

        def notify_shape(self, tensor_name: str, shape: Sequence[int]) -> None:
            self._shape = tuple(shape)

        def take(self, dtype: np.dtype) -> CudaArray:
            """What the last run made."""
            array, self._array = self._array, None
            if array is None:  # nothing was asked for: an empty output
                return self._device.empty(self._shape, dtype)
            return CudaArray(array.memory, self._shape, dtype)

    return Allocator
