"""Verify: does the bundle, run selectively, answer as its dense reference does in stock onnxruntime?

Of a bundle with engines for NVIDIA GPUs each of those, too (tensorrt/verify_engines.py).

Two questions, reported apart. *Decisions*: are the keep masks equal at every position? *Values*: on the images
whose decisions all agree, the largest error of any output, relative to the largest magnitude of that output.

A decision may flip for rounding alone where its logit lies within `compare.NEAR` of the border: such flips are
counted and do not fail the check, any other does.

Values of programs in Q/DQ are judged step by step (verify_steps.py); what comes of all steps is told.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import load
from ..runtime.bundle import open_bundle
from ..runtime.engine import Config, OrtConfig, config_for
from ..runtime.errors import BackendWarning, InputError
from ..runtime.layouts import shallow_and_deep
from ..runtime.manifest import Manifest
from ..runtime.nvidia import able
from ..runtime.spans import native_regions
from .compare import NEAR, ImageCheck, compare
from .data import Dataset, Sample
from .metrics import open_metric
from .reference import Case, Expected, Reference
from .tolerances import EXACT, QUANTIZED, TOLERANCE, tolerance_of_engine
from .verify_report import EngineCheck, Quality, VerifyReport, summarize
from .verify_steps import Steps

RANDOM_IMAGES = 8
ENGINE_IMAGES = 16  # at most: each takes three dense runs for every engine
RANDOM_FRACTIONS = (
    0.1,
    0.0,
    0.3,
    0.02,
    0.6,
    1.0,
)  # forced in turn on random images, whose own masks say nothing


def strategies_of(bundle: str | Path, config: Config | None = None) -> tuple[str, ...]:
    """Those that may run a region of the bundle on this machine, by that backend or the bundle's."""
    manifest = open_bundle(bundle, verify=False).manifest
    with warnings.catch_warnings():  # `load` says that another backend answers
        warnings.simplefilter("ignore", BackendWarning)
        runs = able(config or config_for(manifest.backend, None), manifest)
    native = isinstance(runs, OrtConfig) and native_regions(manifest)
    return ("spans", "rects", "auto") if native else ("rects", "auto")


def verify(
    bundle: str | Path,
    data: Dataset | None = None,
    *,
    tolerance: float | None = None,
    metric: str | None = None,
    engine_tolerance: float | None = None,
    limit: int | None = None,
    strategies: Sequence[str] | None = None,
    backend: str | Config | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> VerifyReport:
    """Compare selective and dense answers on `data` (its first `limit` images), or on 8 seeded random images.

    tolerance: of relative errors; by default TOLERANCE, for a program in Q/DQ QUANTIZED or, of a step with few layers,
    less (see verify_steps.py).
    `tick` is called after each image, for progress. Returns the report, passed or not; its `require` raises.
    metric: a row of docs/data.md, taken of `data`, of the last strategy's answers; it is told, and decides nothing.
    strategies: of `foveate.load`; every one that this bundle and this machine have, if left out. backend: as there.
    engine_tolerance: of engines for NVIDIA GPUs, each of which is compared with its file of programs/ on the first
    ENGINE_IMAGES images (see tensorrt/verify_engines.py); by default by their precision.
    Raises InputError, BundleError.
    """
    start = time.monotonic()
    strategies = strategies or strategies_of(bundle)
    checks: dict[str, list[ImageCheck]] = {strategy: [] for strategy in strategies}
    if metric is not None and data is None:
        raise InputError("verify", got=f"metric {metric} without data", expected="images", fix="Add --data.")
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"backend": backend, "threads": threads}
        models = {s: stack.enter_context(load(bundle, strategy=s, **options)) for s in strategies}
        manifest = models[strategies[0]].manifest
        reference = Reference(Path(bundle), manifest, threads or 0)
        asked = tolerance
        if tolerance is None:
            tolerance = QUANTIZED if reference.quantized else TOLERANCE
        near = max(NEAR, tolerance) if reference.quantized else NEAR
        judge = _Judge(metric, reference) if metric is not None else None
        by_step = {
            name: Steps(model, name, asked)
            for name, model in models.items()
            if reference.quantized and model.device is None
        }
        several = [tolerance_of_engine(engine, reference.quantized) for engine in manifest.engines]
        if several and reference.quantized:
            several.append(QUANTIZED)
        allowed = max(several, default=tolerance)
        allowed = allowed if engine_tolerance is None else engine_tolerance
        for sample, fraction in _samples(data, manifest, limit):
            choices = reference.choices if fraction is None else reference.forced(sample.image, fraction)
            expected = reference(sample.image, choices)
            for strategy, model in models.items():
                model.set_choices(choices)
                result = model(sample.image)
                keeps = [np.asarray(result.decisions[d.name].keep) for d in manifest.decisions]
                outputs = {spec.name: np.asarray(result[spec.name]) for spec in manifest.outputs}
                near_by = near if model.backend in EXACT else allowed
                checks[strategy].append(
                    compare(sample.name, outputs, keeps, expected.outputs, expected.keeps, near_by)
                )
                if strategy in by_step:
                    by_step[strategy](expected.borders, choices)
                if judge is not None and strategy == strategies[-1]:
                    judge(sample, outputs, expected)
            tick()
    engines: tuple[EngineCheck, ...] = ()
    if manifest.engines:
        from .tensorrt.verify_engines import check_engines

        count = min(limit or ENGINE_IMAGES, ENGINE_IMAGES)
        engines = check_engines(
            Path(bundle),
            lambda: _cases(data, manifest, reference, count),
            tolerance=engine_tolerance,
            threads=threads or 0,
            tick=tick,
        )
    spec = data.spec if data else "seeded random images"
    summaries = tuple(
        summarize(
            name,
            found,
            tolerance if models[name].backend in EXACT else allowed,
            models[name].backend,
            by_step[name].checks() if name in by_step else None,
        )
        for name, found in checks.items()
    )
    quality = judge.quality() if judge is not None else None
    return VerifyReport(str(bundle), spec, tolerance, summaries, quality, engines, time.monotonic() - start)


class _Judge:
    """The task metric of the bundle's answers, of the reference's, and of the reference's with all layers."""

    def __init__(self, metric: str, reference: Reference):
        self._name, self._reference, self._images = metric, reference, 0
        self._all_layers = shallow_and_deep(reference.manifest)[-1]
        self._metrics = [open_metric(metric) for _ in range(3 if self._all_layers else 2)]

    def __call__(self, sample: Sample, outputs: Mapping[str, np.ndarray], expected: Expected) -> None:
        answers = [outputs, expected.outputs]
        if self._all_layers:
            answers.append(self._reference(sample.image, self._all_layers).outputs)
        for measured, answer in zip(self._metrics, answers, strict=True):
            measured.update(answer, sample.label, expected.outputs)
        self._images += 1

    def quality(self) -> Quality:
        bundle, reference, *deep = (measured.value() for measured in self._metrics)
        return Quality(self._name, self._images, bundle, reference, *(deep or [None]))


def _cases(data: Dataset | None, manifest: Manifest, reference: Reference, count: int) -> Iterator[Case]:
    """As `_samples`, with the choices that force the fraction."""
    name = manifest.inputs[0].name
    for sample, fraction in _samples(data, manifest, count if data else min(count, RANDOM_IMAGES)):
        forced = {} if fraction is None else reference.forced(sample.image, fraction)
        yield Case(sample.name, {name: sample.image}, {**reference.choices, **forced})


def _samples(
    data: Dataset | None, manifest: Manifest, limit: int | None
) -> Iterator[tuple[Sample, float | None]]:
    """Images, and the active fraction to force on random ones."""
    if data is not None:
        yield from ((sample, None) for sample in data.samples(limit))
        return
    for number, sample in enumerate(random_images(manifest, limit or RANDOM_IMAGES)):
        yield sample, RANDOM_FRACTIONS[number % len(RANDOM_FRACTIONS)]


def random_images(manifest: Manifest, count: int, seed: int = 0) -> Iterator[Sample]:
    """Smooth noise, float32 at the shape the plan was made at: blocks of 8 positions plus fine noise."""
    if len(manifest.inputs) != 1:
        raise InputError(
            "verify",
            got=f"a program with inputs {', '.join(i.name for i in manifest.inputs)}",
            expected="one image input",
            fix="Give --data, or verify through your own code.",
        )
    _, *shape = manifest.sample[manifest.inputs[0].name]
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = random.normal(size=(1, shape[0], *(-(-n // 8) for n in shape[1:])))
        image = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, : shape[1], : shape[2]]
        fine = random.normal(size=image.shape, scale=0.2)
        yield Sample(f"random[{number}]", (image + fine).astype(np.float32))
