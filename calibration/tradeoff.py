"""What a search over a bundle's free choices tried, what it chose, and whether other images confirm that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.metrics import value_of
from ..pipeline.report_budget import CURVE, draw_tradeoff
from ..pipeline.report_plots import PAPER
from ..pipeline.statistics import bootstrap
from .budget import Budget
from .curve import write_curve
from .knobs import Point

HOLDS, BROKEN = "holds", "does not hold"
UNCLEAR = "is exceeded by no more than chance explains"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Trial:
    """One setting of all knobs, in words by knob. drop: the reference's quality − this one's, with its 95 % interval
    over images; speedup: the dense engine's ms ÷ ms. front: nothing is both better and cheaper."""

    settings: dict[str, str]
    quality: float
    drop: float
    drop_interval: Interval
    ms: float
    speedup: float
    front: bool = False

    @staticmethod
    def of(point: Point, reference: np.ndarray, dense_ms: float) -> Trial:
        """`reference`: counts [N, K, 2] of the same images."""
        drop, interval = drop_of(point.counts, reference)
        settings = dict(point.settings)
        return Trial(settings, point.quality, drop, interval, point.ms, dense_ms / point.ms)

    def on_front(self) -> Trial:
        return dataclasses.replace(self, front=True)


@dataclass(frozen=True)
class HeldOut:
    """The chosen setting, run on images that had no part in choosing it. verdict: one of `HOLDS` (within the budget),
    `UNCLEAR` (beyond, by no more than chance would explain: the 95 % interval reaches the budget) and `BROKEN`."""

    images: int
    reference: float
    quality: float
    drop: float
    drop_interval: Interval
    verdict: str


@dataclass(frozen=True)
class Tradeoff:
    """What was tried on `images`, and `chosen` of it: `choices` by name, of the `program` of this sha256. reference:
    the quality of the program as it was built, all layers, and its ms in the bundle; dense_ms: the tuned dense
    engine's, in the same runs. precision: whether a lower one paid, in words; "" where none was asked for."""

    data: str
    metric: str
    seed: int
    budget: Budget
    images: int
    reference: float
    reference_ms: float
    dense_ms: float
    layout: str
    trials: list[Trial]
    chosen: Trial
    choices: Mapping[str, Any]
    held_out: HeldOut
    program: str
    precision: str = ""

    @property
    def notes(self) -> list[str]:
        """What the user should know of the choice."""
        if self.held_out.verdict == HOLDS:
            return []
        fix = "More images tell more." if self.held_out.verdict == UNCLEAR else "Ask for a smaller budget."
        return [f"{self.confirmed()} {fix}"]

    def confirmed(self) -> str:
        """What the other images say, in a line."""
        found, (low, high) = self.held_out, self.held_out.drop_interval
        return (
            f"On {found.images} held-out images the budget ({self.budget.words()}) {found.verdict}: {self.metric} "
            f"{found.quality:.4f}, the reference {found.reference:.4f}; drop {100 * found.drop:+.2f} points "
            f"(95 % interval {100 * low:+.2f} to {100 * high:+.2f})."
        )

    def words(self) -> str:
        """The choice, in a line."""
        what = ", ".join(f"{knob} {words}" for knob, words in self.chosen.settings.items())
        return (
            f"chosen: {what}: {self.metric} {self.chosen.quality:.4f}, {self.chosen.ms:.2f} ms (as built: "
            f"{self.reference:.4f}, {self.reference_ms:.2f} ms; dense engine: {self.dense_ms:.2f} ms)"
        )

    def write(self, folder: Path) -> None:
        """tradeoff.json and, with matplotlib, .png."""
        write_curve(folder, CURVE, dataclasses.asdict(self), partial(draw_tradeoff, colours=PAPER))


def confirm(budget: Budget, reference: np.ndarray, chosen: np.ndarray) -> HeldOut:
    """Of counts [N, K, 2] of the held-out images: the reference's, and those of what was chosen."""
    drop, interval = drop_of(chosen, reference)
    quality, full = (float(value_of(counts.sum(axis=0))) for counts in (chosen, reference))
    least, verdict = budget.least(full), HOLDS
    if least is not None and quality < least - 1e-9:
        high = full - interval[0] if budget.min_metric is None else _interval(chosen)[1]
        verdict = UNCLEAR if high >= least else BROKEN
    return HeldOut(len(chosen), full, quality, drop, interval, verdict)


def drop_of(counts: np.ndarray, reference: np.ndarray) -> tuple[float, Interval]:
    """The reference's value − that of `counts`, both [N, K, 2] of the same images, and its 95 % interval over them."""
    joined = np.stack([reference, counts], axis=1)  # [N, 2, K, 2]
    before, after = value_of(joined.sum(axis=0))
    return float(before - after), _interval(joined)


def _interval(counts: np.ndarray) -> Interval:
    """The 95 % bootstrap interval of the value of counts [N, K, 2], or of the drop between two, [N, 2, K, 2]."""
    flat = counts.reshape(len(counts), -1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = value_of((weights @ flat).reshape(len(weights), *counts.shape[1:]))
        found = values if values.ndim == 1 else values[:, 0] - values[:, 1]
        return found[~np.isnan(found)]  # draws without an image on which the metric is defined

    return bootstrap(statistic, len(counts))
