"""The walk over a bundle's steps, whatever memory its tensors lie in. How they are run there is told by `Executor`, on
the CPU, and `device.executor.DeviceExecutor`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from .costs import DeviceCosts
from .dims import Symbols, count_bytes
from .engine import Engine
from .engines import Engines
from .exit_costs import ExitCosts
from .exits import Rows, run_exits, run_paths
from .guard import Guard
from .manifest import (
    Decision,
    DenseSegment,
    ExitChain,
    ExitGraph,
    ExitPaths,
    ExitStage,
    ExitStep,
    Manifest,
    Region,
)
from .request import Request, Tensors
from .state import ReferenceCache

_MUST_WIN = 0.93  # of the fallback's time must a selective run be predicted to take at most: predictions err
Told = Callable[[float], None]  # of milliseconds, once they are known


class Steps(ABC):
    """The steps of one bundle with their engines and reference states. Safe for concurrent callers."""

    rows: Rows  # how images are taken out of a batch

    def __init__(self, manifest: Manifest, engines: Engines, costs: DeviceCosts, cache_bytes: int):
        self.manifest, self.engines, self.costs = manifest, engines, costs
        self.references = ReferenceCache(cache_bytes)
        self.regions = [step for step in manifest.steps if isinstance(step, Region)]
        self.guard = Guard(tuple(region.name for region in self.regions))
        self.exit_costs = ExitCosts()
        self._drops = last_uses(manifest)
        self._specs = {t.name: t for t in (*manifest.inputs, *manifest.tensors, *manifest.outputs)}

    def run(self, request: Request, first: int = 0, last: int | None = None) -> None:
        """Runs the steps, or those from `first` on up to `last`. The request then holds, as arrays of its own, what
        later steps read, the outputs, and the decisions' tensors."""
        steps = list(zip(self.manifest.steps, self._drops, strict=True))
        try:
            for step, drops in steps[first:last]:
                if isinstance(step, Region):
                    self._run_region(step, request)
                elif isinstance(step, ExitChain | ExitPaths):
                    self._run_exits(step, request)
                else:
                    self._run_dense(step, request)
                for name in drops:
                    request.tensors.pop(name, None)
            self._own_tensors(request)
        except BaseException:
            request.leases.clear()  # half-written scratch is not worth saving
            raise
        self._release(request)

    def run_program(self, request: Request) -> None:
        """Runs the whole program in one engine."""
        with self._timed(request, "dense"):
            engine = self.engines.program_at(request.shapes)
            feeds = {**self._choices(engine, request), **request.tensors}
            request.tensors.update(zip(engine.outputs, engine.run(feeds), strict=True))
            self._check_decisions(engine, request)
        request.strategies.update((region.name, ("dense",) * request.batch) for region in self.regions)

    def run_stage(
        self, step: ExitChain | ExitPaths, stage: ExitStage, tensors: Tensors, request: Request
    ) -> Tensors:
        """A stage's outputs for its inputs among `tensors`."""
        with self._timed(request, "dense", f"{step.name}.{stage.exit}"):
            engine = self.engines.at(stage.file, request.shapes)
            return self._call(engine, stage.inputs, tensors, request)

    @property
    def replayed(self) -> dict[str, int]:
        """So many runs of each region, where such are."""
        return {}

    @abstractmethod
    def measure(
        self,
        shapes: Mapping[str, Sequence[int]],
        choices: Mapping[str, np.ndarray],
        fingerprint: dict[str, str],
        budget_ms: float,
    ) -> DeviceCosts:
        """Costs at these input shapes (one image each). Serves no requests meanwhile: the caller holds them back."""

    @abstractmethod
    def own_outputs(self, request: Request) -> None:
        """Copies those outputs that are not the request's own."""

    @abstractmethod
    def _timed(
        self, request: Request, phase: str = "", segment: str = "", told: Told | None = None
    ) -> AbstractContextManager[None]:
        """Adds what is done in it to the request's times, and tells how many milliseconds it took."""

    @abstractmethod
    def _choices(self, engine: Engine, request: Request) -> Tensors:
        """The choices that this engine takes."""

    @abstractmethod
    def _check(self, decision: Decision, request: Request) -> None:
        """The request fails with DecisionError, now or when what was asked is settled, where it is not finite."""

    @abstractmethod
    def _ask_depth(self, step: ExitStep, request: Request) -> None:
        """`request.depth` is checked and there, now or when what was asked is settled."""

    @abstractmethod
    def _settle(self, request: Request) -> None:
        """What was asked about the request is answered."""

    @abstractmethod
    def _run_region(self, region: Region, request: Request) -> None: ...

    @abstractmethod
    def _own_tensors(self, request: Request) -> None:
        """What is handed out becomes the caller's own."""

    def _call(self, engine: Engine, names: Collection[str], tensors: Tensors, request: Request) -> Tensors:
        feeds = {**self._choices(engine, request), **{name: tensors[name] for name in names}}
        return dict(zip(engine.outputs, engine.run(feeds), strict=True))

    def _run_dense(self, step: DenseSegment | ExitGraph, request: Request) -> None:
        with self._timed(request, "dense", step.name):
            engine = self.engines.at(step.file, request.shapes)
            request.tensors.update(self._call(engine, step.inputs, request.tensors, request))
            self._check_decisions(engine, request)
            if isinstance(step, ExitGraph):
                self._ask_depth(step, request)

    def _check_decisions(self, engine: Engine, request: Request) -> None:
        for decision in self.manifest.decisions if request.checked else ():
            if (decision.logits or decision.keep) in engine.outputs:
                self._check(decision, request)

    def _run_exits(self, step: ExitChain | ExitPaths, request: Request) -> None:
        def less(ms: float) -> None:
            request.timing["gather"] -= ms

        def run(stage: ExitStage, tensors: Tensors) -> Tensors:
            with self._timed(request, told=less):
                return self.run_stage(step, stage, tensors, request)

        with self._timed(request, "gather"):
            self._ask_depth(step, request)
            self._settle(request)
            depth, timed = request.depth, partial(self._timed, request)
            assert depth is not None  # it was asked for
            if isinstance(step, ExitChain):
                chosen = run_exits(step, depth, request.tensors, run, self.rows, timed, self.exit_costs)
                request.tensors[step.chosen] = chosen
            else:
                request.tensors.update(run_paths(step, depth, request.tensors, run, self.rows))

    def _budget(self, region: Region, request: Request, images: int) -> tuple[float | None, float] | None:
        """The ms of a region's fallback for so many images (None: it shall not be judged) and what a selective run
        may take; None where the region runs densely, whatever is in its masks."""
        if request.strategy == "dense":
            return None
        if request.strategy != "auto":
            return None, math.inf
        dense_ms = self.costs.dense_ms(region, images * request.elements)
        if dense_ms is None:
            return None
        if self.guard.demoted(region.name):
            self.guard.pass_by(region.name)
            return None
        return dense_ms, _MUST_WIN * self.guard.budget(region.name, dense_ms)

    def _run_fallback(
        self, region: Region, request: Request, tensors: Tensors, images: int, calls: int = 1
    ) -> None:
        """Adds the outputs of a region to its inputs, `tensors`. It is judged by what `images` were expected to take,
        `calls` times."""
        dense_ms = self.costs.dense_ms(region, images * request.elements)

        def told(ms: float) -> None:
            if request.observe and dense_ms is not None:
                self.guard.saw_dense(region.name, dense_ms, ms / calls)

        with self._timed(request, "fallback", told=told):
            engine = self.engines.at(region.fallback, request.shapes)
            tensors.update(self._call(engine, region.inputs, tensors, request))

    def close(self) -> None:
        self.references.clear()
        self.engines.close()

    def bytes_of(self, region: Region, symbols: Symbols) -> int:
        """What the outputs of a region's segments take, which its states take at least."""
        names = [t.name for s in region.segments for t in s.outputs]
        return count_bytes([self._specs[name] for name in names if name in self._specs], symbols)

    def _release(self, request: Request) -> None:
        with self._timed(request, "restore"):
            while request.leases:
                self.references.give_back(*request.leases.pop())


def last_uses(manifest: Manifest) -> list[tuple[str, ...]]:
    """For each step, the tensors that nothing later reads: dropped then, so that memory holds what is alive."""
    kept = {t.name for t in manifest.outputs}
    kept |= {n for d in manifest.decisions for n in (d.keep, d.logits, d.energy) if n is not None}
    drops: list[tuple[str, ...]] = []
    for step in reversed(manifest.steps):
        segments = step.segments if isinstance(step, Region) else ()
        inside = {t.name for s in segments for t in s.outputs}
        names = ({*step.inputs, *step.outputs} | inside) - kept
        drops.append(tuple(sorted(names)))
        kept |= names
    return drops[::-1]
