"""What verify found: per strategy, decisions and values apart, and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..runtime.errors import CheckFailed
from .compare import ImageCheck

TOLERANCE = 1e-5


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
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> StrategyCheck:
        """A failed check before a passed one, then the one with the largest error."""
        return max(self.checks, key=lambda c: (not c.passed, np.nan_to_num(c.max_rel_error, nan=np.inf)))

    def lines(self) -> list[str]:
        quality = [self.quality.line()] if self.quality else []
        return [check.line() for check in self.checks] + quality

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
