"""The `tensorrt` backend: engines that TensorRT or TensorRT-RTX built, on a GPU's memory.

What they need to work in is shared by all of a device, for their runs follow each other. Runs of shapes that come back
are replayed where that is faster (`device/replay.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from ..device.cuda import CudaDevice
from ..device.device import DeviceArray, Shape
from ..device.engine import register_on_device
from ..device.parts import run_in_parts
from ..device.recording import Recording
from ..device.replay import Feeds, Prepared, Replays, own, recorded
from ..engine import Ports, TensorRTConfig
from ..errors import EngineError
from ..tensorrt.context import Context
from ..tensorrt.jit import JitFile
from ..tensorrt.plan import REBUILD, Plan

_WARM = 3  # runs, in which TensorRT allocates, compiles and captures


@dataclass(frozen=True)
class _Bound:
    """A context whose runs a graph holds: it stays as it is, on the same memory. What it works in is shared by all of
    the device, and stays with the last of them."""

    context: Context
    memory: DeviceArray
    outputs: Sequence[DeviceArray]
    others: object  # that it writes, too

    @property
    def nbytes(self) -> int:
        return sum(output.nbytes for output in self.outputs)


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
        self._replays = Replays[list[DeviceArray]](device) if replayed else None
        self.capture = device.capture if replayed else None

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
        if self._device.recording is not None:
            return self._recorded(self._device.recording, feeds)
        if "first_run" not in self.timing:
            with self._timed("first_run"):
                outputs = self._plain(feeds)
            self._jit.keep(self._contexts.jit())
            return outputs
        if self._replays is None:
            return self._plain(feeds)
        shapes = tuple(feeds[name].shape for name in self._plan.inputs)
        return self._replays.run(shapes, feeds, self._plain, self._prepare)

    def close(self) -> None:
        with self._device.queue.current():
            self._jit.keep(self._contexts.jit())
        if self._replays is not None:
            self._replays.clear()

    def _plain(self, feeds: Feeds) -> list[DeviceArray]:
        self._context.set_shapes(feeds)
        self._context.lend(self._device.scratch(self._context.needs))
        return self._context.run(feeds, self.outputs)

    def _prepare(self, feeds: Feeds) -> Prepared[list[DeviceArray]]:
        if not self._contexts.captures:
            inputs, outputs, recording = recorded(self._device, self._device.capture, feeds, self.run)
            return Prepared(inputs, partial(own, self._device, recording.launch, outputs), holds=(recording,))
        inputs = {name: self._device.copy(feeds[name]) for name in self._plan.inputs}
        with self._device.queue.deferring():
            bound = self._bind(self._contexts.capturing(), inputs)
        return Prepared(
            inputs, partial(own, self._device, bound.context.execute, bound.outputs), holds=(bound,)
        )

    def _recorded(self, recording: Recording, feeds: Feeds) -> list[DeviceArray]:
        """A run in a context of its own, which a graph goes on using."""

        def make() -> _Bound:
            made = self._contexts.one_shape()
            bound = self._bind(made, feeds)
            if not self._contexts.capturable(made, self._device.queue.stream):
                raise self._no_graph("a context whose runs TensorRT says cannot be captured")
            return bound

        bound = recording.keep(id(self), make)
        bound.context.execute()
        return list(bound.outputs)

    def _bind(self, made: Any, feeds: Feeds) -> _Bound:
        context = Context(self._plan, self._ports, self._device, made)
        context.set_shapes(feeds)
        if None in context.output_shapes.values():
            raise self._no_graph("outputs whose shapes only the data tell")
        memory = self._device.scratch(context.needs)
        context.lend(memory)
        arrays = context.bind(feeds)
        for _ in range(_WARM):
            context.execute()
        outputs = [array for name in self.outputs if (array := arrays[name]) is not None]
        return _Bound(context, memory, outputs, arrays)

    def _no_graph(self, got: str) -> EngineError:
        return EngineError(
            f"a CUDA graph of {self._plan.name}",
            got=got,
            expected="runs that can be captured",
            fix="None is needed: it runs without.",
        )

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
