"""Every engine of a bundle against the file that it was built from: Polygraphy's Comparator runs both on equal images.

An engine is fed what the reference has on its borders, so an error is told of the engine that makes it; the engine of
the whole program tells what comes of all of them. Where TensorRT cannot run an engine, the model that it was built from
takes its place, in onnxruntime and rounded as its precision is: that checks casts and Q/DQ, and no kernel of TensorRT.
Engines that are ONNX files themselves run in onnxruntime on the CPU, those in bfloat16 rounded so.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...runtime.bundle import open_bundle
from ...runtime.errors import told
from ...runtime.manifest import ONNX, EngineFile, ExitStep, Manifest
from ...runtime.nvidia import why_not_here
from ..as_written import is_quantized
from ..compare import ImageCheck, Keep, compare
from ..lower_precision import cast_inputs
from ..masks import margins, masks_of
from ..reference import Case
from ..rounding import in_float32
from ..tolerances import tolerance_of_engine
from ..verify_report import EngineCheck, summarize_engine
from .borders import Borders, open_session
from .engine_model import open_choices
from .flavour import RTX
from .stand_in import open_stand_in

Runner = Any  # of polygraphy.backend.base


def check_engines(
    bundle: Path,
    cases: Callable[[], Iterator[Case]],
    *,
    tolerance: float | None = None,
    threads: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> tuple[EngineCheck, ...]:
    """One check for each file of programs/ that has engines, of the engine that fits this GPU. `cases` is called anew
    for every engine. `tolerance`: by default that of `tolerance_of_engine`. `tick` is called after each engine."""
    manifest = open_bundle(bundle, verify=False).manifest
    if why := _why_no_polygraphy():
        return tuple(EngineCheck.unchecked(engine, why) for engine in _one_each(manifest.engines))
    found = []
    with Borders(bundle, manifest, threads) as borders:
        checker = _Checker(bundle, manifest, borders, cases, threads)
        for engine in _one_each(manifest.engines):
            found.append(checker.check(engine, tolerance))
            tick()
    return tuple(found)


def _one_each(engines: Sequence[EngineFile]) -> list[EngineFile]:
    """Of each program the one that runs here, or the first."""
    chosen: dict[str, EngineFile] = {}
    for engine in engines:
        if engine.program not in chosen or (engine.flavour != ONNX and not why_not_here([engine])):
            chosen[engine.program] = engine
    return list(chosen.values())


class _Checker:
    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        borders: Borders,
        cases: Callable[[], Iterator[Case]],
        threads: int,
    ):
        self._bundle, self._manifest, self._borders = bundle, manifest, borders
        self._cases, self._threads = cases, threads
        self._decisions = _Decisions(bundle, manifest)
        self._program = onnx.load(bundle / manifest.program, load_external_data=False)
        self._quantized = is_quantized(self._program)

    def check(self, engine: EngineFile, tolerance: float | None) -> EngineCheck:
        if tolerance is None:
            tolerance = tolerance_of_engine(engine, self._quantized)
        why = "" if engine.flavour == ONNX else why_not_here([engine]) or _why_other_flavour(engine)
        profile = {}
        if engine.sidecar:
            profile = json.loads((self._bundle / engine.sidecar).read_text(encoding="utf-8"))["profiles"][0]
        feeds = _Feeds(self._borders, self._decisions, self._cases(), profile)
        run = self._lowered if engine.flavour == ONNX else self._model if why else self._engine
        reference, runner = self._reference(engine), run(engine)
        comparison = _Comparison(self._decisions.names, feeds, tolerance)
        failed = _compare([reference, runner], feeds, comparison)
        return summarize_engine(engine, why, comparison.checks, tolerance, feeds.outside, failed)

    def _reference(self, engine: EngineFile) -> Runner:
        """The file of programs/ as it is, its choices fed."""
        from polygraphy.backend.onnxrt import OnnxrtRunner

        path = self._bundle / engine.program
        model = onnx.load(path, load_external_data=False)
        open_choices(model)
        return OnnxrtRunner(lambda: open_session(model, path.parent, self._threads), name="onnxruntime")

    def _model(self, engine: EngineFile) -> Runner:
        from polygraphy.backend.onnxrt import OnnxrtRunner

        return OnnxrtRunner(
            lambda: open_stand_in(self._bundle, self._program, engine, self._threads),
            name="its model in onnxruntime",
        )

    def _lowered(self, engine: EngineFile) -> Runner:
        from polygraphy.backend.onnxrt import OnnxrtRunner

        path = self._bundle / engine.plan

        def open_lowered() -> Any:
            if engine.precision == "fp16":
                model = onnx.load(path, load_external_data=False)
                cast_inputs(model)
            else:
                model = in_float32(onnx.load(path), engine.precision)
            open_choices(model)
            return open_session(model, path.parent, self._threads)

        return OnnxrtRunner(open_lowered, name=path.name)

    def _engine(self, engine: EngineFile) -> Runner:
        from polygraphy.backend.trt import EngineFromPath, TrtRunner

        return TrtRunner(EngineFromPath(str(self._bundle / engine.plan)), name=engine.flavour)


class _Decisions:
    """Which tensors are decisions, and how near each was to being another."""

    def __init__(self, bundle: Path, manifest: Manifest):
        self._masks = masks_of(manifest, bundle / manifest.program)
        steps = (*manifest.steps, *(step for steps in manifest.layouts.values() for step in steps))
        self._exits = next((step for step in steps if isinstance(step, ExitStep)), None)
        depth = [self._exits.depth] if self._exits else []
        self.names = frozenset([*(d.keep for d in manifest.decisions), *depth])

    def margins(self, tensors: Mapping[str, np.ndarray], choices: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """By decision: how far it is from being another one, as a share of the range of what it is decided by."""
        found = {}
        for mask in self._masks:
            logits, keep = tensors.get(mask.decision.logits or ""), tensors.get(mask.decision.keep)
            if logits is not None and keep is not None:
                found[mask.decision.keep] = margins(mask, logits, keep.shape[2:], choices)
        if self._exits and self._exits.gate and self._exits.scores in tensors:
            offset = np.asarray(choices.get(f"{self._exits.gate}.offset", 0), np.float32)
            ranked = np.sort(tensors[self._exits.scores] + offset, axis=1)
            ahead = ranked[:, -1] - ranked[:, -2] if ranked.shape[1] > 1 else np.full(len(ranked), np.inf)
            found[self._exits.depth] = ahead / np.maximum(np.ptp(ranked, axis=1), np.finfo(np.float32).tiny)
        return found


@dataclass
class _Feeds:
    """What an engine is fed, image after image: every tensor of the borders, of which a runner takes its own. Images
    outside of its first profile, which a runner takes, are left out, and counted."""

    borders: Borders
    decisions: _Decisions
    cases: Iterator[Case]
    profile: Mapping[str, Sequence[Sequence[int]]]
    outside: int = 0
    fed: list[tuple[str, dict[str, np.ndarray]]] = field(default_factory=list)  # names, margins

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for case in self.cases:
            choices = {name: np.asarray(value, np.float32) for name, value in case.choices.items()}
            tensors = self.borders({**case.feeds, **choices})
            if not all(_fits(tensors[name].shape, shapes) for name, shapes in self.profile.items()):
                self.outside += 1
                continue
            self.fed.append((case.name, self.decisions.margins(tensors, case.choices)))
            yield {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def _fits(shape: Sequence[int], shapes: Sequence[Sequence[int]]) -> bool:
    least, _, most = shapes
    return len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))


class _Comparison:
    """For the Comparator: of one image, the reference's outputs and the other's -> whether each is near enough."""

    def __init__(self, decisions: frozenset[str], feeds: _Feeds, tolerance: float):
        self._decisions, self._feeds, self._tolerance = decisions, feeds, tolerance
        self.checks: list[ImageCheck] = []

    def __call__(self, expected: Mapping[str, Any], found: Mapping[str, Any]) -> OrderedDict[str, bool]:
        name, margins = self._feeds.fed[len(self.checks)]
        known, ours = dict(expected.items()), dict(found.items())
        decided = [k for k in known if k in self._decisions]
        keeps = [ours.get(k, np.empty(0)) for k in decided]
        wanted = [Keep(known[k], margins.get(k)) for k in decided]
        values = {k: v for k, v in known.items() if k not in self._decisions}
        check = compare(name, ours, keeps, values, wanted, self._tolerance)
        self.checks.append(check)
        errors = check.errors or {}
        flipped = check.flips > check.near_flips
        return OrderedDict(
            (k, not flipped if k in self._decisions else errors.get(k, 0.0) <= self._tolerance) for k in known
        )


def _compare(runners: Sequence[Runner], feeds: _Feeds, comparison: _Comparison) -> str:
    """Runs and compares image by image, so that memory is bounded. In words what failed; ""."""
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):  # errors are raised, and told in the report
        try:
            results = Comparator.run(list(runners), data_loader=feeds, streaming=True)
            Comparator.compare_accuracy(results, compare_func=comparison)
        except Exception as error:  # of Polygraphy, onnxruntime or TensorRT: no common root
            return told(error)
    return ""


def _why_no_polygraphy() -> str:
    try:
        import polygraphy.comparator  # noqa: F401
    except ImportError as error:
        return f"Polygraphy is not here ({error}): pip install 'foveate[tensorrt]'"
    return ""


def _why_other_flavour(engine: EngineFile) -> str:
    """Polygraphy takes one flavour of TensorRT for as long as a process lives: the first that it is asked for."""
    import polygraphy.config

    taken, wanted = polygraphy.config.USE_TENSORRT_RTX, engine.flavour == RTX
    if taken != wanted and "polygraphy.backend.trt" in sys.modules:
        return f"this process has run engines of the other flavour of TensorRT than {engine.flavour}"
    polygraphy.config.USE_TENSORRT_RTX = wanted
    return ""
