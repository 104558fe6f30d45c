"""What a search over a bundle's free choices tried, what it chose, and whether other images confirm that."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.metrics import value_of
from ..pipeline.report_budget import CURVE, STREAM_CURVE, draw_tradeoff
from ..pipeline.report_plots import PAPER
from ..pipeline.statistics import bootstrap
from .budget import NEAR, Budget, pareto
from .curve import write_curve

HOLDS, BROKEN = "holds", "does not hold"
UNCLEAR = "is exceeded by no more than chance explains"
UNTRIED = "limits nothing that was measured there"  # a latency, which the images that chose have

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """A setting that was tried: of each knob in words, and as choices by name. counts [N, K, 2]: what the search images
    add to the metric. ms: of an image, their mean; NaN until it is measured."""

    settings: Mapping[str, str]
    choices: Mapping[str, Any]
    counts: np.ndarray
    ms: float = field(default=math.nan, kw_only=True)

    @property
    def quality(self) -> float:
        return float(value_of(self.counts.sum(axis=0)))

    @property
    def cost(self) -> float:
        return self.ms


@dataclass(frozen=True)
class Trial:
    """One setting of all knobs, in words by knob. drop: the reference's quality − this one's, with its 95 % interval
    over images; speedup: the dense engine's ms ÷ ms. front: nothing is both better and cheaper. work: of streams, the
    share of a whole frame's multiply-adds."""

    settings: dict[str, str]
    quality: float
    drop: float
    drop_interval: Interval
    ms: float
    speedup: float
    front: bool = False
    work: float | None = None


@dataclass(frozen=True)
class HeldOut:
    """The chosen setting, run on images that had no part in choosing it. verdict: one of `HOLDS` (within the budget),
    `UNCLEAR` (beyond, by no more than chance would explain: the 95 % interval reaches the budget) and `BROKEN`. ms: of
    streams, whose frames take what moves in them."""

    images: int
    reference: float
    quality: float
    drop: float
    drop_interval: Interval
    verdict: str
    ms: float | None = None


@dataclass(frozen=True)
class Tradeoff:
    """What was tried on `images`, and `chosen` of it: `choices` by name, of the `program` of this sha256. reference:
    the quality of the program as it was built, all layers, and its ms in the bundle; dense_ms: the tuned dense
    engine's, in the same runs. precision: whether a lower one paid, in words; "" where none was asked for.

    Of streams (`unit` is "frames", which `images` then counts) the reference is the exact policy, `choices` are fields
    of StreamPolicy, and `hold` is what it is worth to answer with the dense answer to the frame before. Their ms are at
    most `dense_ms`."""

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
    unit: str = "images"
    hold: float | None = None

    @property
    def notes(self) -> list[str]:
        """What the user should know of the choice."""
        notes = []
        if self.held_out.verdict in (UNCLEAR, BROKEN):
            more = f"More {self.unit} tell more."
            fix = more if self.held_out.verdict == UNCLEAR else "Ask for a smaller budget."
            notes.append(f"{self.confirmed()} {fix}")
        if self.hold is not None and self.chosen.quality <= self.hold:
            notes.append(
                f"Holding the previous frame's answer is worth no less ({self.metric} {self.hold:.4f}): ask for a "
                "smaller budget."
            )
        if self.unit == "frames" and self.chosen.ms >= self.dense_ms:
            notes.append(
                "Nothing within the budget is faster than the dense engine: on such clips streams take it."
            )
        return notes

    def confirmed(self) -> str:
        """What the other images say, in a line."""
        found, (low, high) = self.held_out, self.held_out.drop_interval
        took = "" if found.ms is None else f", {found.ms:.2f} ms"
        return (
            f"On {found.images} held-out {self.unit} the budget ({self.budget.words()}) {found.verdict}: {self.metric} "
            f"{found.quality:.4f}, the reference {found.reference:.4f}; drop {100 * found.drop:+.2f} points "
            f"(95 % interval {100 * low:+.2f} to {100 * high:+.2f}){took}."
        )

    def words(self) -> str:
        """The choice, in a line."""
        what = ", ".join(f"{knob} {words}" for knob, words in self.chosen.settings.items())
        work = "" if self.chosen.work is None else f", {self.chosen.work:.1%} of the work"
        reference = "as built" if self.chosen.work is None else "exact"
        return (
            f"chosen: {what}: {self.metric} {self.chosen.quality:.4f}, {self.chosen.ms:.2f} ms{work} ({reference}: "
            f"{self.reference:.4f}, {self.reference_ms:.2f} ms; dense engine: {self.dense_ms:.2f} ms)"
        )

    def write(self, folder: Path) -> None:
        """tradeoff.json (of streams stream_tradeoff.json) and, with matplotlib, .png."""
        name = CURVE if self.unit == "images" else STREAM_CURVE
        write_curve(folder, name, dataclasses.asdict(self), partial(draw_tradeoff, colours=PAPER))


def trials_of(
    points: Sequence[Measured], reference: np.ndarray, dense_ms: float, work: Sequence[float] | None = None
) -> list[Trial]:
    """`reference`: counts [N, K, 2] of the same images as those of the points."""
    front = {id(point) for point in pareto(points)}
    trials = []
    for number, point in enumerate(points):
        drop, interval = drop_of(point.counts, reference)
        trial = Trial(
            settings=dict(point.settings),
            quality=point.quality,
            drop=drop,
            drop_interval=interval,
            ms=point.ms,
            speedup=dense_ms / point.ms,
            front=id(point) in front,
            work=None if work is None else work[number],
        )
        trials.append(trial)
    return trials


def confirm(budget: Budget, reference: np.ndarray, chosen: np.ndarray, ms: float | None = None) -> HeldOut:
    """Of counts [N, K, 2] of the held-out images: the reference's, and those of what was chosen. `ms`: what it took
    there, where that is the clip's matter."""
    drop, interval = drop_of(chosen, reference)
    quality, full = (float(value_of(counts.sum(axis=0))) for counts in (chosen, reference))
    least, verdict = budget.least(full), HOLDS
    if least is not None and quality < least - 1e-9:
        high = full - interval[0] if budget.min_metric is None else _interval(chosen)[1]
        verdict = UNCLEAR if high >= least else BROKEN
    if least is None and ms is None:
        verdict = UNTRIED
    if ms is not None and budget.latency_ms is not None and ms > budget.latency_ms * (1 + NEAR):
        verdict = BROKEN
    return HeldOut(len(chosen), full, quality, drop, interval, verdict, ms)


def drop_of(counts: np.ndarray, reference: np.ndarray) -> tuple[float, Interval]:
    """The reference's value − that of `counts`, both [N, K, 2] of the same images, and its 95 % interval over them."""
    classes = max(counts.shape[1], reference.shape[1])  # each has as many as it met
    grown = [np.pad(c, ((0, 0), (0, classes - c.shape[1]), (0, 0))) for c in (reference, counts)]
    joined = np.stack(grown, axis=1)  # [N, 2, K, 2]
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
