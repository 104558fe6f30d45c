"""Verify: does the bundle, run selectively, answer as its dense reference does in stock onnxruntime?

Two questions, reported apart. *Decisions*: are the keep masks equal at every position? *Values*: on the images
whose decisions all agree, the largest error of any output, relative to the largest magnitude of that output.

A decision may flip for rounding alone where m lies within `compare.NEAR` of the threshold: such flips are
counted and do not fail the check, any other does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..runtime import load
from ..runtime.bundle import open_bundle
from ..runtime.errors import InputError
from ..runtime.manifest import Manifest
from ..runtime.spans import native_regions
from .compare import ImageCheck, compare
from .data import Dataset, Sample
from .reference import Reference
from .verify_report import TOLERANCE, VerifyReport, summarize

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
    limit: int | None = None,
    strategies: Sequence[str] | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> VerifyReport:
    """Compare selective and dense answers on `data` (its first `limit` images), or on 8 seeded random images.

    `tick` is called after each image, for progress. Returns the report, passed or not; its `require` raises.
    strategies: of `foveate.load`; every one that this bundle and this machine have, if left out.
    Raises InputError, BundleError.
    """
    start = time.monotonic()
    strategies = strategies or strategies_of(bundle)
    checks: dict[str, list[ImageCheck]] = {strategy: [] for strategy in strategies}
    with contextlib.ExitStack() as stack:
        models = {s: stack.enter_context(load(bundle, strategy=s, threads=threads)) for s in strategies}
        manifest = models[strategies[0]].manifest
        reference = Reference(Path(bundle), manifest, threads or 0)
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
            tick()
    spec = data.spec if data else "seeded random images"
    summaries = tuple(summarize(strategy, found, tolerance) for strategy, found in checks.items())
    return VerifyReport(str(bundle), spec, tolerance, summaries, time.monotonic() - start)


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
