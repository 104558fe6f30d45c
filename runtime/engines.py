"""The engines of one bundle, opened together."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

from .bundle import Bundle, dense_files
from .device.device import Device
from .device.engine import open_on_device
from .dims import Symbols, resolve_dim, symbols_at
from .engine import Config, Engine, OrtConfig, Ports, open_engine
from .errors import EngineError, InternalError
from .manifest import ExitChain, ExitPaths, Manifest, Region, StreamPlan, TensorSpec
from .native.handles import PoolHandle
from .precision import files_for
from .spans import WEIGHTS, SpanEngine, native_regions
from .stream import StreamEngines

Shapes = tuple[tuple[int, ...], ...]
_FIXED = 2  # shapes that have engines of their own


class Engines:
    """By file name. Those that every request may need are open from the start; the whole program is opened when it
    is first asked for, for it holds all the weights again. `spans`: by region, where native kernels run it. `device`:
    where they run, if its memory is not this machine's."""

    def __init__(self, bundle: Bundle, config: Config, device: Device | None = None):
        self._bundle, self._config, self._device = bundle, config, device
        self._made_of = files_for(config, bundle.manifest)
        self._open: dict[str, Engine] = {}
        self._program: Engine | None = None
        self._fixed: dict[tuple[str, Shapes], Engine] = {}  # by file, for inputs of these shapes alone
        self._asked: set[tuple[Shapes, bool]] = set()  # of `fix`
        self._stream: StreamEngines | None = None
        self._pool: PoolHandle | None = None
        self._lock = threading.Lock()
        for file, ports in _ports(bundle.manifest).items():
            self._open[file] = self._open_file(file, ports)
        native = native_regions(bundle.manifest) if isinstance(config, OrtConfig) else []
        self.spans = {region.name: self._open_spans(region.spans) for region in native}

    def __getitem__(self, file: str) -> Engine:
        return self._open[file]

    @property
    def program(self) -> Engine:
        """The program as one engine. Its outputs are the program's, then those tensors of decisions that it gives."""
        with self._lock:
            if self._program is None:
                manifest = self._bundle.manifest
                self._program = self._open_file(manifest.one_engine, _program_ports(manifest))
            return self._program

    def at(self, file: str, shapes: Shapes) -> Engine:
        """The engine of a file for a request whose inputs have these shapes, in the manifest's order."""
        return self._fixed.get((file, shapes)) or self._open[file]

    def program_at(self, shapes: Shapes) -> Engine:
        """The program for a request whose inputs have these shapes."""
        return self._fixed.get((self._bundle.manifest.one_engine, shapes)) or self.program

    def fix(self, shapes: Shapes, program: bool = False) -> None:
        """Opens engines for inputs of these shapes alone, of all dense steps or of the whole program: onnxruntime then
        works with numbers where it had names, which saves 2 to 3 % of the time of a convolutional network and 10 % of
        a small transformer's. For shapes that stay, and for the first few of them: each engine holds weights again."""
        if (shapes, program) in self._asked:  # by every frame of a stream
            return
        manifest = self._bundle.manifest
        given = {spec.name: shape for spec, shape in zip(manifest.inputs, shapes, strict=True)}
        symbols = symbols_at(manifest, given)
        with self._lock:
            fixed = {known for _, known in self._fixed}
            if shapes in fixed or len(fixed) < _FIXED:
                ports = {manifest.one_engine: _program_ports(manifest)} if program else self._dense_ports()
                for file, own in ports.items():
                    if (file, shapes) not in self._fixed:
                        at = replace(own, sizes=_sizes(own.inputs, symbols))
                        self._fixed[file, shapes] = self._open_file(file, at)
            self._asked.add((shapes, program))

    def _dense_ports(self) -> dict[str, Ports]:
        """Of the steps' files without those of windows, which are of many sizes."""
        manifest = self._bundle.manifest
        regions = [step for step in manifest.steps if isinstance(step, Region)]
        windows = {segment.file for region in regions for segment in region.segments}
        return {file: ports for file, ports in _ports(manifest).items() if file not in windows}

    @property
    def stream(self) -> StreamEngines:
        """What streams share. Only where the manifest has a stream plan, and the native library is there."""
        with self._lock:
            if self._stream is None:
                plan = self._bundle.manifest.stream
                if plan is None:
                    raise InternalError("a stream was asked for, and the bundle has none")
                if plan.rest:
                    self._open_part(plan.rest, plan.rest_inputs, plan.rest_outputs)
                self._stream = StreamEngines(
                    self._open_spans(plan.spans),
                    self._program_for_stream,
                    lambda groups: self._behind(plan, groups),
                    {},
                    self._fingerprint(plan.spans),
                )
            return self._stream

    def _program_for_stream(self, shapes: Shapes) -> Engine:
        self.fix(shapes, program=True)
        return self.program_at(shapes)

    def _behind(self, plan: StreamPlan, groups: int) -> Engine | None:
        """Tails are opened when they are first asked for: they hold weights again."""
        with self._lock:
            if groups <= len(plan.tails):
                tail = plan.tails[groups - 1]
                return self._open_part(tail.file, tail.inputs, tail.outputs)
            return self._open[plan.rest] if plan.rest else None

    def _open_part(self, file: str, inputs: Iterable[str], outputs: Iterable[str]) -> Engine:
        if file not in self._open:
            ports = _picked(_specs(self._bundle.manifest), inputs, outputs)
            self._open[file] = self._open_file(file, ports)
        return self._open[file]

    def _open_file(self, file: str, ports: Ports) -> Engine:
        """On a device, a DeviceEngine: it takes and gives other arrays."""
        if self._device is None:
            return open_engine(self._bundle.file(file), self._config, ports)
        if self._made_of is not None and file not in self._made_of:
            raise EngineError(
                f"the engine of {file}",
                got="none for this GPU in the bundle",
                expected="one of every file that runs",
                fix="Build the bundle again with `foveate build`, for the layout that you load.",
            )
        path = self._bundle.file(self._made_of[file] if self._made_of else file)
        return cast(Engine, open_on_device(path, self._config, ports, self._device))

    def _fingerprint(self, file: str) -> str:
        """Of a plan and the weights."""
        files = self._bundle.manifest.files
        return hashlib.sha256("".join(files[name].sha256 for name in (file, WEIGHTS)).encode()).hexdigest()

    def _open_spans(self, file: str) -> SpanEngine:
        """All plans of a model share the threads of one pool."""
        config = self._config
        if not isinstance(config, OrtConfig):
            raise InternalError(f"native kernels were asked for, beside {config}")
        if self._pool is None:
            self._pool = PoolHandle(config.threads)
        return SpanEngine(self._bundle.path, file, self._pool, config.isa)

    @property
    def timing(self) -> dict[str, dict[str, float]]:
        """By file, what engines say of their own loading: ms."""
        found = {file: getattr(engine, "timing", {}) for file, engine in self._open.items()}
        return {file: dict(timing) for file, timing in found.items() if timing}

    def close(self) -> None:
        for engine in (*self._open.values(), *self._fixed.values()):
            engine.close()
        if self._program is not None:
            self._program.close()


def decision_tensors(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The specs of what decisions compute, less those that are outputs of the program anyway."""
    known = {t.name: t for t in manifest.tensors}
    names = [n for d in manifest.decisions for n in (d.keep, d.logits, d.energy) if n is not None]
    outputs = {t.name for t in manifest.outputs}
    return tuple(known[n] for n in dict.fromkeys(names) if n in known and n not in outputs)


def _program_ports(manifest: Manifest) -> Ports:
    return Ports(manifest.inputs, manifest.outputs, decision_tensors(manifest))


def _sizes(specs: Iterable[TensorSpec], symbols: Symbols) -> dict[str, int]:
    """Of the symbolic dims; none of those that are not known at these symbols."""
    sizes: dict[str, int] = {}
    for dim in (dim for spec in specs for dim in spec.shape if isinstance(dim, str)):
        with contextlib.suppress(KeyError):
            sizes[dim] = resolve_dim(dim, symbols)
    return sizes


def _ports(manifest: Manifest) -> dict[str, Ports]:
    specs = _specs(manifest)
    ports: dict[str, Ports] = {}
    for step in manifest.steps:
        if isinstance(step, ExitChain | ExitPaths):
            stages = step.stages if isinstance(step, ExitChain) else step.paths
            ports.update((stage.file, _picked(specs, stage.inputs, stage.outputs)) for stage in stages)
            continue
        (file,) = dense_files(step)
        ports[file] = _picked(specs, step.inputs, step.outputs)
        for segment in step.segments if isinstance(step, Region) else ():
            names = ([t.name for t in side] for side in (segment.inputs, segment.outputs))
            ports[segment.file] = _picked(specs, *names)
    return ports


def _specs(manifest: Manifest) -> dict[str, TensorSpec]:
    return {t.name: t for t in (*manifest.tensors, *manifest.outputs, *manifest.inputs)}


def _picked(specs: Mapping[str, TensorSpec], inputs: Iterable[str], outputs: Iterable[str]) -> Ports:
    return Ports(tuple(specs[name] for name in inputs), tuple(specs[name] for name in outputs))
