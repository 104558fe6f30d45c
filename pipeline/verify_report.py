"""What verify found: per strategy, decisions and values apart, and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import CheckFailed, EngineError
from ..runtime.manifest import EngineFile
from .compare import ImageCheck
from .tolerances import EXACT, TOLERANCE
from .verify_steps import SHARE, StepCheck


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
    backend: str = "ort"  # that ran it
    steps: dict[str, StepCheck] | None = None  # of programs in Q/DQ: see verify_steps.py

    def line(self) -> str:
        by = "" if self.backend in EXACT else f" by {self.backend}"
        flips = f"{self.flips} flipped positions ({self.near_flips} within rounding of the threshold), "
        return (
            f"{self.strategy}{by}: decisions agree on {self.images_agreeing} of {self.images} images, "
            f"{flips if self.flips else ''}max relative error {self.max_rel_error:.2g} on those "
            f"(worst: {self.worst_image}){self._of_steps()}"
        )

    def _of_steps(self) -> str:
        if self.steps is None:
            return ""
        errors = ", ".join(f"{name} {check}" for name, check in self.steps.items())
        return f"; each step on the reference's tensors, on {SHARE:.0%} of the images: {errors}"


@dataclass(frozen=True)
class EngineCheck:
    """An engine for NVIDIA GPUs beside its file of programs/ in onnxruntime, over the images that its profile takes."""

    program: str
    plan: str
    precision: str
    not_run: str  # why TensorRT did not run it, so that its model was run in onnxruntime; "": it did
    tolerance: float
    images: int = 0
    outside: int = 0  # images that its profile does not take
    images_agreeing: int = 0  # every decision equal; values are compared on those
    flips: int = 0
    near_flips: int = 0  # those of them that an error within the tolerance explains
    errors: dict[str, float] | None = None  # by output, the largest; None: no image agrees
    worst_image: str | None = None
    failed: str = ""  # what went wrong as it ran

    @staticmethod
    def unchecked(engine: EngineFile, why: str) -> EngineCheck:
        """Neither the engine nor its model was run."""
        return EngineCheck(engine.program, engine.plan, engine.precision, why, 0.0)

    @property
    def passed(self) -> bool:
        """What was run agrees. Where nothing was, `not_run` says so, and nothing speaks against it."""
        errors = self.errors or {}
        within = all(error <= self.tolerance for error in errors.values())
        return not self.failed and self.flips == self.near_flips and within

    def line(self) -> str:
        name = Path(self.plan).stem
        what = f"{name} ({self.precision})" + (", its model in onnxruntime" if self.not_run else "")
        if self.failed:
            return f"{what}: {self.failed}"
        if not self.images:
            return f"{name} ({self.precision}): not checked" + (
                ", for its profile takes none of the images" if self.outside else ""
            )
        said = [f"{self.images} images"]
        if self.outside:
            said.append(f"{self.outside} more are outside of its profile")
        if self.flips:
            near = f"{self.near_flips} within the tolerance of it"
            said.append(
                f"decisions differ on {self.images - self.images_agreeing}, {self.flips} of them ({near})"
            )
        if self.errors is None:
            said.append("so values are not compared")
        elif self.errors:
            said.append("relative error " + ", ".join(f"{k} {v:.2g}" for k, v in self.errors.items()))
        verdict = "" if self.passed else f"; beyond {self.tolerance:g}, worst: {self.worst_image}"
        return f"{what}: {', '.join(said)}{verdict}"


@dataclass(frozen=True)
class Quality:
    """A task metric over all images: of the bundle with its choices, of the dense reference with the same, and of the
    reference with all layers, where images may leave before (else None)."""

    metric: str
    images: int
    bundle: float
    reference: float
    all_layers: float | None

    def line(self) -> str:
        full = "" if self.all_layers is None else f", with all layers {self.all_layers:.4f}"
        return f"{self.metric} over {self.images} images: {self.bundle:.4f}; dense reference {self.reference:.4f}{full}"


@dataclass(frozen=True)
class VerifyReport:
    bundle: str
    data: str
    tolerance: float
    checks: tuple[StrategyCheck, ...]
    quality: Quality | None = None
    engines: tuple[EngineCheck, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self) -> bool:
        """What was run agrees; `not_run` says what was not."""
        return all(check.passed for check in (*self.checks, *self.engines))

    @property
    def not_run(self) -> tuple[EngineCheck, ...]:
        """Engines that TensorRT did not run, or not on any image."""
        return tuple(check for check in self.engines if check.not_run or not check.images)

    @property
    def worst(self) -> StrategyCheck:
        """A failed check before a passed one, then the one with the largest error."""
        return max(self.checks, key=lambda c: (not c.passed, np.nan_to_num(c.max_rel_error, nan=np.inf)))

    def lines(self) -> list[str]:
        quality = [self.quality.line()] if self.quality else []
        lines = [check.line() for check in self.checks] + [check.line() for check in self.engines] + quality
        return [*lines, self.said_of_not_run()] if self.not_run else lines

    def to_dict(self) -> dict[str, Any]:
        engines = [{**dataclasses.asdict(check), "passed": check.passed} for check in self.engines]
        return {
            **dataclasses.asdict(self),
            "engines": engines,
            "engines_not_run": len(self.not_run),
            "passed": self.passed,
        }

    def require(self, engines: bool = False) -> VerifyReport:
        """Itself if passed; else raises CheckFailed (exit code 1). `engines`: also that TensorRT ran every one; else
        raises EngineError (exit code 3)."""
        if not self.passed:
            failed = [check.line() for check in (*self.checks, *self.engines) if not check.passed]
            raise CheckFailed(
                f"verify {self.bundle}",
                got="; ".join(failed),
                expected=f"equal decisions and a relative error ≤ {self.tolerance:g}",
                fix="Build the bundle again. If the error is small and you accept it, pass a larger --tolerance, or, "
                "for engines, --engine-tolerance.",
            )
        if engines and self.not_run:
            raise EngineError(
                f"verify {self.bundle}",
                got=self.said_of_not_run(),
                expected="every engine run by TensorRT",
                fix="Verify on a machine with that GPU, on images within the profiles; or leave out --require-engines.",
            )
        return self

    def said_of_not_run(self) -> str:
        """In words how many engines, and why."""
        whys = dict.fromkeys(check.not_run or "no image within its profile" for check in self.not_run)
        return f"NOT RUN by TensorRT: {len(self.not_run)} of {len(self.engines)} engines ({'; '.join(whys)})"


def summarize(
    strategy: str,
    checks: Sequence[ImageCheck],
    tolerance: float = TOLERANCE,
    backend: str = "ort",
    steps: dict[str, StepCheck] | None = None,
) -> StrategyCheck:
    """Passed: no flip but near ones, an error within `tolerance`, and at least one image to tell it from. Where there
    are checks of `steps`, it is they that count."""
    agreeing = [check for check in checks if check.errors is not None]
    flips, near = sum(c.flips for c in checks), sum(c.near_flips for c in checks)
    positions = sum(c.positions for c in checks)
    worst = max(checks, key=lambda c: (c.flips - c.near_flips, c.error if c.errors is not None else -1.0))
    error = max((c.error for c in agreeing), default=float("nan"))
    if steps is None:
        within = bool(agreeing) and error <= tolerance
    else:
        within = bool(checks) and all(step.passed for step in steps.values())
    return StrategyCheck(
        strategy=strategy,
        images=len(checks),
        images_agreeing=len(agreeing),
        decision_agreement=1 - flips / positions if positions else 1.0,
        flips=flips,
        near_flips=near,
        max_rel_error=error,
        worst_image=worst.name,
        passed=flips == near and within,
        backend=backend,
        steps=steps,
    )


def summarize_engine(
    engine: EngineFile,
    not_run: str,
    checks: Sequence[ImageCheck],
    tolerance: float,
    outside: int = 0,
    failed: str = "",
) -> EngineCheck:
    agreeing = [check for check in checks if check.errors is not None]
    worst = max(
        checks, key=lambda c: (c.flips - c.near_flips, np.nan_to_num(c.error, nan=-1.0)), default=None
    )
    names = dict.fromkeys(name for check in agreeing for name in check.errors or {})
    return EngineCheck(
        program=engine.program,
        plan=engine.plan,
        precision=engine.precision,
        not_run=not_run,
        tolerance=tolerance,
        images=len(checks),
        outside=outside,
        images_agreeing=len(agreeing),
        flips=sum(check.flips for check in checks),
        near_flips=sum(check.near_flips for check in checks),
        errors={name: max((c.errors or {})[name] for c in agreeing) for name in names} if agreeing else None,
        worst_image=worst.name if worst else None,
        failed=failed,
    )
