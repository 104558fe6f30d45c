"""Every image judged by gates that did not learn from it: training on all folds but one, and judging on that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .exit_data import ExitData
from .gate import TRAININGS, train_gates

FOLDS = 4


@dataclass(frozen=True)
class Judged:
    """By one training. depths [B, N]: what the gates for each price give each image; scores [N, K]: those for the first
    price."""

    training: str
    depths: np.ndarray
    scores: np.ndarray

    def worth(self, data: ExitData, betas: Sequence[float]) -> float:
        """The mean over images and prices of (quality − beta · depth)."""
        at = np.searchsorted(data.exits, self.depths)
        quality = data.quality[np.arange(len(data.quality)), at]  # [B, N]
        return float((quality - np.asarray(betas)[:, None] * self.depths).mean())


def judge(data: ExitData, betas: Sequence[float], training: str) -> Judged:
    """Image n is of fold n modulo `FOLDS`."""
    fold = np.arange(len(data.features)) % FOLDS
    depths, scores = np.zeros((len(betas), len(fold)), np.int64), np.zeros(data.quality.shape)
    for number in range(FOLDS):
        others, own = fold != number, fold == number
        gates = train_gates(data.of(others), betas, training)
        depths[:, own] = [gate.depths(data.features[own]) for gate in gates]
        scores[own] = gates[0].scores(data.features[own])
    return Judged(training, depths, scores)


def judge_trainings(data: ExitData, betas: Sequence[float]) -> Judged:
    """By the training whose gates are worth most on images that they have not seen."""
    return max((judge(data, betas, name) for name in TRAININGS), key=lambda j: j.worth(data, betas))


def explained(data: ExitData) -> float:
    """What the gate's features tell of an image's differences in quality between exits: the share of their variance
    that a regression explains on images that it has not seen. At most 1; 0 or less: nothing."""
    predicted = judge(data, [0.0], "regression").scores
    total = np.square(data.gained - data.gained.mean(axis=0)).sum()
    return float(1 - np.square(data.gained - predicted).sum() / total) if total else 0.0
