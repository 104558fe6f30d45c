"""The `tensorrt` backend: engines that TensorRT or TensorRT-RTX built, on a GPU's memory.

What they need to work in is shared by all of a device, for their runs follow each other. Runs of shapes that come back
are replayed where that is faster (`device/replay.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from ..device.cuda import CudaDevice
from ..device.device import DeviceArray, Shape
from ..device.engine import register_on_device
from ..device.parts import run_in_parts
from ..device.replay import Feeds, Prepared, Replays
from ..engine import Ports, TensorRTConfig
from ..errors import EngineError
from ..tensorrt.context import Context
from ..tensorrt.jit import JitFile
from ..tensorrt.plan import REBUILD, Plan

_WARM = 3  # runs, in which TensorRT allocates, compiles and captures


class TensorRTEngine:
    """A plan. See `device.engine.DeviceEngine`.

    timing: ms of reading the plan ("deserialize"), of its first context ("context") and first run ("first_run").
    TensorRT-RTX compiles in the last two, but for what it finds from earlier processes ("jit_known", bytes)."""

    def __init__(self, path: Path, config: TensorRTConfig, ports: Ports, device: CudaDevice):
        self._device, self._ports, self.timing = device, ports, dict[str, float]()
        with device.queue.current():
            with self._timed("deserialize"):
                self._plan = plan = Plan(path)
            self._jit = JitFile(plan.sha256, device.compute, plan.flavour.version)
            self.timing["jit_known"] = float(len(self._jit.known))
            self._contexts = plan.flavour.contexts(plan.engine, self._jit.known)
            with self._timed("context"):
                self._context = Context(plan, ports, device, self._contexts.any_shape())
        given = {t.name for t in ports.inputs}
        self.inputs = tuple(name for name in plan.inputs if name in given)
        self.optional = tuple(name for name in plan.inputs if name not in given)
        self.outputs = tuple(t.name for t in (*ports.outputs, *ports.extras) if t.name in plan.outputs)
        self._batched = _per_image(ports, self.outputs)
        _check_outputs(path, plan, ports)
        replayed = config.graph and not plan.host
        self._replays = Replays(device, self._plain, self._prepare) if replayed else None

    def most(self, sizes: Mapping[str, Shape]) -> int:
        return self._plan.most(sizes, self._ports)

    def run(self, feeds: Feeds) -> list[DeviceArray]:
        """A batch of more images than the engine was built for runs in parts. Raises InputError for other shapes that
        it was not built for, EngineError."""
        shapes = {name: feeds[name].shape for name in self._batched}
        most = self.most({name: shape[1:] for name, shape in shapes.items()})
        with self._device.queue.current():
            if most and any(shape[0] > most for shape in shapes.values()):
                return run_in_parts(self._device, self._run, feeds, self._batched, most)
            return self._run(feeds)

    def _run(self, feeds: Feeds) -> list[DeviceArray]:
        if "first_run" not in self.timing:
            with self._timed("first_run"):
                outputs = self._plain(feeds)
            self._jit.keep(self._contexts.jit())
            return outputs
        if self._replays is None:
            return self._plain(feeds)
        return self._replays.run(tuple(feeds[name].shape for name in self._plan.inputs), feeds)

    def close(self) -> None:
        with self._device.queue.current():
            self._jit.keep(self._contexts.jit())
        if self._replays is not None:
            self._replays.clear()

    def _plain(self, feeds: Feeds) -> list[DeviceArray]:
        self._context.set_shapes(feeds)
        self._context.lend(self._device.scratch(self._context.needs))
        return self._context.run(feeds, self.outputs)

    def _prepare(self, feeds: Feeds) -> Prepared | None:
        """On memory of its own, which a graph goes on using."""
        context = Context(self._plan, self._ports, self._device, self._contexts.one_shape())
        context.set_shapes(feeds)
        if None in context.output_shapes.values():
            return None
        memory = self._device.empty((context.needs,), np.uint8)
        context.lend(memory)
        inputs = {name: self._device.copy(feeds[name]) for name in self._plan.inputs}
        made = context.bind(inputs)
        with self._device.queue.deferring():  # TensorRT-RTX captures by itself
            for _ in range(_WARM):
                context.execute()
        launch = context.execute
        if self._contexts.captures:
            self._device.queue.wait()
            launch = self._device.queue.capture(context.execute).launch
        outputs = [array for name in self.outputs if (array := made[name]) is not None]
        return Prepared(inputs, outputs, launch, (context, memory, made))

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.timing[what] = (perf_counter() - start) * 1e3


def _per_image(ports: Ports, outputs: Sequence[str]) -> tuple[str, ...]:
    """The inputs of which each image has its own; none where an output is not the images' alone."""
    batched = [t for t in ports.inputs if t.shape and isinstance(t.shape[0], str)]
    made = [t for t in (*ports.outputs, *ports.extras) if t.name in outputs]
    dims = {t.shape[0] if t.shape else None for t in (*batched, *made)}
    return tuple(t.name for t in batched) if len(dims) == 1 else ()


def _check_outputs(path: Path, plan: Plan, ports: Ports) -> None:
    wanted = {t.name for t in ports.outputs}
    if not wanted <= set(plan.outputs):
        raise EngineError(
            f"{path} does not fit its manifest",
            got=f"outputs {sorted(plan.outputs)}",
            expected=f"outputs {sorted(wanted)}",
            fix=REBUILD,
        )


@register_on_device(TensorRTConfig)
def open_tensorrt(path: Path, config: TensorRTConfig, ports: Ports, device: CudaDevice) -> TensorRTEngine:
    return TensorRTEngine(path, config, ports, device)
