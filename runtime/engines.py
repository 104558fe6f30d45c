"""The engines of one bundle, opened together."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping

from .bundle import Bundle, dense_files
from .engine import Config, Engine, OrtConfig, Ports, open_engine
from .errors import InternalError
from .manifest import ExitChain, ExitPaths, Manifest, Region, StreamPlan, TensorSpec
from .native.handles import PoolHandle
from .spans import WEIGHTS, SpanEngine, native_regions
from .stream import StreamEngines

Shape = tuple[int, ...]
_PROGRAMS = 2  # engines for one shape each: every one holds the weights again


class Engines:
    """By file name. Those that every request may need are open from the start; the whole program is opened when it
    is first asked for, for it holds all the weights again. `spans`: by region, where native kernels run it."""

    def __init__(self, bundle: Bundle, config: Config):
        self._bundle, self._config = bundle, config
        self._open: dict[str, Engine] = {}
        self._program: Engine | None = None
        self._programs: dict[tuple[Shape, ...], Engine] = {}  # for inputs of these shapes alone
        self._stream: StreamEngines | None = None
        self._pool: PoolHandle | None = None
        self._lock = threading.Lock()
        for file, ports in _ports(bundle.manifest).items():
            self._open[file] = open_engine(bundle.file(file), config, ports)
        native = native_regions(bundle.manifest) if isinstance(config, OrtConfig) else []
        self.spans = {region.name: self._open_spans(region.spans) for region in native}

    def __getitem__(self, file: str) -> Engine:
        return self._open[file]

    @property
    def program(self) -> Engine:
        """The program as one engine. Its outputs are the program's, then those tensors of decisions that it gives."""
        with self._lock:
            if self._program is None:
                self._program = self._open_program({})
            return self._program

    def program_at(self, shapes: Mapping[str, Shape]) -> Engine:
        """The program for inputs of these shapes, by name, and no others: onnxruntime knows all sizes when it plans
        memory, which saves 2 to 3 % of the time of a convolutional network. The first few shapes get one; it is for
        those that stay. Behind them, and with other shapes, the one for all."""
        inputs = self._bundle.manifest.inputs
        key = tuple(tuple(shapes[spec.name]) for spec in inputs)
        with self._lock:
            if key not in self._programs and len(self._programs) < _PROGRAMS:
                dims = ((spec.shape, shape) for spec, shape in zip(inputs, key, strict=True))
                sizes = {
                    d: n
                    for dims, shape in dims
                    for d, n in zip(dims, shape, strict=True)
                    if isinstance(d, str)
                }
                self._programs[key] = self._open_program(sizes)
            found = self._programs.get(key)
        return found or self.program

    def _open_program(self, sizes: Mapping[str, int]) -> Engine:
        manifest = self._bundle.manifest
        ports = Ports(manifest.inputs, manifest.outputs, decision_tensors(manifest), sizes)
        return open_engine(self._bundle.file(manifest.one_engine), self._config, ports)

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
                    self.program_at,
                    lambda groups: self._behind(plan, groups),
                    {},
                    self._fingerprint(plan.spans),
                )
            return self._stream

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
            self._open[file] = open_engine(self._bundle.file(file), self._config, ports)
        return self._open[file]

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

    def close(self) -> None:
        for engine in (*self._open.values(), *self._programs.values()):
            engine.close()
        if self._program is not None:
            self._program.close()


def decision_tensors(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The specs of what decisions compute, less those that are outputs of the program anyway."""
    known = {t.name: t for t in manifest.tensors}
    names = [n for d in manifest.decisions for n in (d.keep, d.logits, d.energy) if n is not None]
    outputs = {t.name for t in manifest.outputs}
    return tuple(known[n] for n in dict.fromkeys(names) if n in known and n not in outputs)


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
