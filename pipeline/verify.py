"""Verify: does the bundle, run selectively, answer as its dense reference does in stock onnxruntime?

Two questions, reported apart. *Decisions*: are the keep masks equal at every position? *Values*: on the images
whose decisions all agree, the largest error of any output, relative to the largest magnitude of that output.

A decision may flip for rounding alone where m lies within `compare.NEAR` of the threshold: such flips are
counted and do not fail the check, any other does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import load
from ..runtime.errors import CheckFailed, InputError
from ..runtime.manifest import Manifest
from .compare import ImageCheck, compare
from .data import Dataset, Sample
from .reference import Reference

TOLERANCE = 1e-5
STRATEGIES = ("rects", "auto")
RANDOM_IMAGES = 8
RANDOM_FRACTIONS = (
    0.1,
    0.0,
    0.3,
    0.02,
    0.6,
    1.0,
)  # forced in turn on random images, whose own masks say nothing


@dataclass(frozen=True)
class StrategyCheck:
    """All images under one strategy."""

    strategy: str
    images: int
    images_agreeing: int  # every position's decision equal
    decision_agreement: float  # share of equal positions, over all images and decisions
    flips: int  # positions that differ
    near_flips: int  # those of them within rounding of the threshold
    max_rel_error: float  # over the agreeing images; NaN if there is none
    worst_image: (
        str | None
    )  # the one with that error; if decisions differ without excuse, the one with most flips
    passed: bool

    def line(self) -> str:
        flips = f"{self.flips} flipped positions ({self.near_flips} within rounding of the threshold), "
        return (
            f"{self.strategy}: decisions agree on {self.images_agreeing} of {self.images} images, "
            f"{flips if self.flips else ''}max relative error {self.max_rel_error:.2g} on those "
            f"(worst: {self.worst_image})"
        )


@dataclass(frozen=True)
class VerifyReport:
    bundle: str
    data: str
    tolerance: float
    checks: tuple[StrategyCheck, ...]
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> StrategyCheck:
        """A failed check before a passed one, then the one with the largest error."""
        return max(self.checks, key=lambda c: (not c.passed, np.nan_to_num(c.max_rel_error, nan=np.inf)))

    def lines(self) -> list[str]:
        return [check.line() for check in self.checks]

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "passed": self.passed}

    def require(self) -> VerifyReport:
        """Itself if passed; else raises CheckFailed (exit code 1)."""
        if self.passed:
            return self
        raise CheckFailed(
            f"verify {self.bundle}",
            got="; ".join(check.line() for check in self.checks if not check.passed),
            expected=f"equal decisions and a relative error ≤ {self.tolerance:g}",
            fix="Build the bundle again. If the error is small and you accept it, pass a larger --tolerance.",
        )


def verify(
    bundle: str | Path,
    data: Dataset | None = None,
    *,
    tolerance: float = TOLERANCE,
    limit: int | None = None,
    strategies: Sequence[str] = STRATEGIES,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> VerifyReport:
    """Compare selective and dense answers on `data` (its first `limit` images), or on 8 seeded random images.

    `tick` is called after each image, for progress. Returns the report, passed or not; its `require` raises.
    Raises InputError, BundleError.
    """
    start = time.monotonic()
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


def summarize(strategy: str, checks: Sequence[ImageCheck], tolerance: float = TOLERANCE) -> StrategyCheck:
    """Passed: no flip but near ones, an error within `tolerance`, and at least one image to tell it from."""
    agreeing = [check for check in checks if check.errors is not None]
    flips, near = sum(c.flips for c in checks), sum(c.near_flips for c in checks)
    positions = sum(c.positions for c in checks)
    worst = max(checks, key=lambda c: (c.flips - c.near_flips, c.error if c.errors is not None else -1.0))
    error = max((c.error for c in agreeing), default=float("nan"))
    return StrategyCheck(
        strategy=strategy,
        images=len(checks),
        images_agreeing=len(agreeing),
        decision_agreement=1 - flips / positions if positions else 1.0,
        flips=flips,
        near_flips=near,
        max_rel_error=error,
        worst_image=worst.name,
        passed=bool(agreeing) and flips == near and error <= tolerance,
    )


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
