"""The engines of one bundle, opened together."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from .bundle import Bundle
from .engine import Config, Engine, OrtConfig, Ports, open_engine
from .errors import InternalError
from .manifest import DenseSegment, Manifest, Region, TensorSpec
from .native.handles import PoolHandle
from .native.library import library
from .spans import SpanEngine


class Engines:
    """By file name. Those that every request may need are open from the start; the whole program is opened when it
    is first asked for, for it holds all the weights again. `spans`: by region, where native kernels run it."""

    def __init__(self, bundle: Bundle, config: Config):
        self._bundle, self._config = bundle, config
        self._open: dict[str, Engine] = {}
        self._program: Engine | None = None
        self._stream: tuple[SpanEngine, Engine | None] | None = None
        self._lock = threading.Lock()
        for file, ports in _ports(bundle.manifest).items():
            self._open[file] = open_engine(bundle.file(file), config, ports)
        self.spans = _open_spans(bundle, config)

    def __getitem__(self, file: str) -> Engine:
        return self._open[file]

    @property
    def program(self) -> Engine:
        """The program as one engine. Its outputs are the program's, then those tensors of decisions that it gives."""
        with self._lock:
            if self._program is None:
                manifest = self._bundle.manifest
                ports = Ports(manifest.inputs, manifest.outputs, decision_tensors(manifest))
                self._program = open_engine(self._bundle.file(manifest.one_engine), self._config, ports)
            return self._program

    @property
    def stream(self) -> tuple[SpanEngine, Engine | None]:
        """The plan of videos, and the engine of what lies behind it. Only where the manifest has a stream, and the
        native library is there."""
        with self._lock:
            if self._stream is None:
                manifest, config = self._bundle.manifest, self._config
                plan = manifest.stream
                if plan is None or not isinstance(config, OrtConfig):
                    raise InternalError("a stream was asked for, and the bundle has none")
                rest = None
                if plan.rest:
                    specs = {t.name: t for t in (*manifest.tensors, *manifest.outputs, *manifest.inputs)}
                    sides = (tuple(specs[n] for n in side) for side in (plan.rest_inputs, plan.rest_outputs))
                    rest = open_engine(self._bundle.file(plan.rest), config, Ports(*sides))
                pool = PoolHandle(config.threads)
                self._stream = SpanEngine(self._bundle.path, plan.spans, pool, config.isa), rest
            return self._stream

    def close(self) -> None:
        for engine in self._open.values():
            engine.close()
        if self._program is not None:
            self._program.close()
        if self._stream is not None and self._stream[1] is not None:
            self._stream[1].close()


def _open_spans(bundle: Bundle, config: Config) -> dict[str, SpanEngine]:
    """By region: those that the native kernels run, which share the threads of one pool."""
    regions = [s for s in bundle.manifest.steps if isinstance(s, Region) and s.spans]
    if library() is None or not regions or not isinstance(config, OrtConfig):
        return {}
    pool = PoolHandle(config.threads)
    return {region.name: SpanEngine(bundle.path, region.spans, pool, config.isa) for region in regions}


def decision_tensors(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The specs of what decisions compute, less those that are outputs of the program anyway."""
    known = {t.name: t for t in manifest.tensors}
    names = [n for d in manifest.decisions for n in (d.keep, d.logits, d.energy) if n is not None]
    outputs = {t.name for t in manifest.outputs}
    return tuple(known[n] for n in dict.fromkeys(names) if n in known and n not in outputs)


def _ports(manifest: Manifest) -> dict[str, Ports]:
    specs = {t.name: t for t in (*manifest.tensors, *manifest.outputs, *manifest.inputs)}

    def pick(names: Iterable[str]) -> tuple[TensorSpec, ...]:
        return tuple(specs[name] for name in names)

    ports: dict[str, Ports] = {}
    for step in manifest.steps:
        file = step.file if isinstance(step, DenseSegment) else step.fallback
        ports[file] = Ports(pick(step.inputs), pick(step.outputs))
        for segment in () if isinstance(step, DenseSegment) else step.segments:
            inputs, outputs = (pick(t.name for t in side) for side in (segment.inputs, segment.outputs))
            ports[segment.file] = Ports(inputs, outputs)
    return ports
