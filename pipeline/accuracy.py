"""The task metric of every contender, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .contenders import Choices, Contenders
from .data import Dataset
from .dense import Dense
from .metrics import Metric, Outputs, metric_for, open_metric


@dataclass(frozen=True)
class Accuracy:
    """`at` are those of the choices asked for, with the mean active fractions that they leave."""

    metric: str
    images: int
    dense: float
    masked_dense: float
    adaptive: float
    at: list[float]
    active: list[float]


def measure_accuracy(
    contenders: Contenders,
    data: Dataset,
    limit: int | None,
    metric: str | None,
    chosen: Sequence[Choices],
    tick: Callable[[], None],
) -> Accuracy:
    """`metric`: a name of `metrics` (default: what the first label allows)."""
    own = contenders.reference.choices
    program = Dense(contenders.bundle / contenders.manifest.program, contenders.threads)
    baseline = program if contenders.baseline is None else Dense(contenders.baseline, contenders.threads)
    metrics: list[Metric] = []
    active: list[list[float]] = [[] for _ in chosen]
    images = 0
    for sample in data.samples(limit):
        images += 1
        metric = metric or metric_for(sample.label)
        metrics = metrics or [open_metric(metric) for _ in range(3 + len(chosen))]
        reference = program(sample.image, own)
        answers: list[Outputs] = [baseline(sample.image, own), reference]
        for number, choices in enumerate([own, *chosen]):
            contenders.use(choices)
            result = contenders.auto(sample.image)
            answers.append({name: np.asarray(result[name]) for name in reference})
            if number:
                active[number - 1].append(active_fraction(result))
        for one, answer in zip(metrics, answers, strict=True):
            one.update(answer, sample.label, reference)
        tick()
    contenders.use(own)
    dense, masked, adaptive, *at = (one.value() for one in metrics)
    return Accuracy(
        metric or "", images, dense, masked, adaptive, at, [float(np.mean(each)) for each in active]
    )


def active_fraction(result) -> float:
    """Active positions ÷ positions over all decisions of a result; 1 without a decision."""
    keeps = [np.asarray(decision.keep) for decision in result.decisions.values()]
    positions = sum(keep.size for keep in keeps)
    return sum(int(np.count_nonzero(keep)) for keep in keeps) / positions if positions else 1.0
