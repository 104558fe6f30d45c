"""How far one program's answers lie from another's: decisions and values apart, and what it costs in a task metric.

A flipped decision changes what is computed behind it, so values say how exact the arithmetic is only on images whose
decisions all agree; over all images they say what a user gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import metric_for, open_metric

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """agreement: of each decision, the share of equal positions (masks) or images (depths). agreeing: images whose
    decisions are all equal; value_error: the mean over those of the relative RMS error of the worst output, None where
    there is none; error: the same over all images, infinite where an output is not finite or has another shape. before,
    after: the metric of either."""

    images: int
    agreement: dict[str, float]
    agreeing: int
    value_error: float | None
    error: float
    metric: str
    before: float
    after: float

    @property
    def least_agreement(self) -> float:
        """Of the decisions; 1 without any."""
        return min(self.agreement.values(), default=1.0)

    @property
    def drop(self) -> float:
        return self.before - self.after

    def lines(self) -> list[str]:
        value = "n/a" if self.value_error is None else f"{self.value_error:.2%}"
        decisions = [f"{name} agrees on {share:.2%}" for name, share in self.agreement.items()]
        return [
            f"decisions: {'; '.join(decisions)}" if decisions else "decisions: none",
            f"values: RMS error {value} on the {self.agreeing} of {self.images} images whose decisions agree, "
            f"{self.error:.2%} on all",
            f"{self.metric} over {self.images} images: {self.after:.4f}, before {self.before:.4f}",
        ]


class Deviating:
    """Fed one image at a time. `metric`: a name of `metrics`; by default what the first label allows."""

    def __init__(self, metric: str | None = None):
        self._metric, self._metrics = metric, []
        self._equal: dict[str, list[float]] = {}
        self._errors: list[float] = []
        self._agreeing: list[bool] = []

    def add(
        self, before: Arrays, after: Arrays, decided: Arrays, decided_after: Arrays, label: Any = None
    ) -> None:
        """Outputs and decisions of either, by name."""
        if not self._metrics:
            self._metric = self._metric or metric_for(label)
            self._metrics = [open_metric(self._metric) for _ in range(2)]
        for metric, answer in zip(self._metrics, (before, after), strict=True):
            metric.update(answer, label, before)
        shares = {name: _equal(value, decided_after[name]) for name, value in decided.items()}
        for name, share in shares.items():
            self._equal.setdefault(name, []).append(share)
        self._agreeing.append(all(share == 1 for share in shares.values()))
        floats = [name for name, value in before.items() if np.asarray(value).dtype.kind == "f"]
        self._errors.append(max((rms_error(after[name], before[name]) for name in floats), default=0.0))

    def result(self) -> Deviation:
        errors, agreeing = np.array(self._errors), np.array(self._agreeing, bool)
        before, after = (metric.value() for metric in self._metrics)
        return Deviation(
            images=len(errors),
            agreement={name: float(np.mean(shares)) for name, shares in self._equal.items()},
            agreeing=int(agreeing.sum()),
            value_error=float(errors[agreeing].mean()) if agreeing.any() else None,
            error=float(errors.mean()),
            metric=self._metric or "",
            before=float(before),
            after=float(after),
        )


def _equal(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return 0.0
    return float(np.mean((a != 0) == (b != 0) if a.dtype.kind == "f" else a == b))


def rms_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """RMS of the difference ÷ RMS of `theirs`; infinite for another shape or what is not finite."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    finite = np.isfinite(b)
    difference = float(np.sqrt(np.mean((a - b)[finite] ** 2))) if finite.any() else 0.0
    scale = float(np.sqrt(np.mean(b[finite] ** 2))) if finite.any() else 0.0
    return difference / scale if scale else (float("inf") if difference else 0.0)
