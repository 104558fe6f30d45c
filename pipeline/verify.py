"""Verify: does the bundle, run selectively, answer as its dense reference does in stock onnxruntime?

Two questions, reported apart. *Decisions*: are the keep masks equal at every position? *Values*: on the images
whose decisions all agree, the largest error of any output, relative to the largest magnitude of that output.

A decision may flip for rounding alone where m lies within `compare.NEAR` of the threshold: such flips are
counted and do not fail the check, any other does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import load
from ..runtime.bundle import open_bundle
from ..runtime.engine import Config
from ..runtime.errors import InputError
from ..runtime.layouts import shallow_and_deep
from ..runtime.manifest import Manifest
from ..runtime.spans import native_regions
from .compare import ImageCheck, compare
from .data import Dataset, Sample
from .metrics import open_metric
from .reference import Expected, Reference
from .verify_report import TOLERANCE, Quality, VerifyReport, summarize

RANDOM_IMAGES = 8
RANDOM_FRACTIONS = (
    0.1,
    0.0,
    0.3,
    0.02,
    0.6,
    1.0,
)  # forced in turn on random images, whose own masks say nothing


def strategies_of(bundle: str | Path) -> tuple[str, ...]:
    """Those that may run a region of the bundle on this machine."""
    native = native_regions(open_bundle(bundle, verify=False).manifest)
    return ("spans", "rects", "auto") if native else ("rects", "auto")


def verify(
    bundle: str | Path,
    data: Dataset | None = None,
    *,
    tolerance: float = TOLERANCE,
    metric: str | None = None,
    limit: int | None = None,
    strategies: Sequence[str] | None = None,
    backend: str | Config | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> VerifyReport:
    """Compare selective and dense answers on `data` (its first `limit` images), or on 8 seeded random images.

    `tick` is called after each image, for progress. Returns the report, passed or not; its `require` raises.
    metric: a row of docs/data.md, taken of `data`, of the last strategy's answers; it is told, and decides nothing.
    strategies: of `foveate.load`; every one that this bundle and this machine have, if left out. backend: as there.
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
        judge = _Judge(metric, reference) if metric is not None else None
        for sample, fraction in _samples(data, manifest, limit):
            choices = reference.choices if fraction is None else reference.forced(sample.image, fraction)
            expected = reference(sample.image, choices)
            for strategy, model in models.items():
                model.set_choices(choices)
                result = model(sample.image)
                keeps = [np.asarray(result.decisions[d.name].keep) for d in manifest.decisions]
                outputs = {spec.name: np.asarray(result[spec.name]) for spec in manifest.outputs}
                checks[strategy].append(
                    compare(sample.name, outputs, keeps, expected.outputs, expected.keeps)
                )
                if judge is not None and strategy == strategies[-1]:
                    judge(sample, outputs, expected)
            tick()
    spec = data.spec if data else "seeded random images"
    summaries = tuple(summarize(strategy, found, tolerance) for strategy, found in checks.items())
    quality = judge.quality() if judge is not None else None
    return VerifyReport(str(bundle), spec, tolerance, summaries, quality, time.monotonic() - start)


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
