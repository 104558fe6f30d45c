"""Where a gate stands on data, beside what the same mean depth gives without a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..pipeline.statistics import bootstrap
from .exit_data import ExitData
from .gate import Gate, train_gates
from .judged import judge_trainings


@dataclass(frozen=True)
class Operating:
    """Mean depth and quality of a gate at price `beta` (None: all images at one exit). `fixed`: quality of every image
    at one depth, the gate's mean, between two exits by interpolation; `lead`: the 95 % interval of quality − fixed,
    over images; `random`: depths as the gate's, dealt at random."""

    beta: float | None
    depth: float
    quality: float
    fixed: float
    lead: tuple[float, float]
    random: float
    shares: Mapping[int, float]  # of the images, by exit

    @property
    def wins(self) -> bool:
        """Over one depth for all images, told apart from chance."""
        return self.lead[0] > 1e-9  # beyond rounding


def operating_point(gate: Gate, data: ExitData) -> Operating:
    """`data` should be images that the gate did not learn from."""
    return operating(gate.beta, gate.depths(data.features), data)


def operating(beta: float | None, depths: np.ndarray, data: ExitData) -> Operating:
    """Of these depths [N], each an exit of `data`."""
    exits, count = np.asarray(data.exits), len(depths)
    at = np.searchsorted(exits, depths)
    taken = data.quality[np.arange(count), at]

    def fixed(weights: np.ndarray) -> np.ndarray:
        """[M] of weights [M, N] of the images."""
        each = zip(weights @ depths, weights @ data.quality, strict=True)
        return np.array([np.interp(depth, exits, quality) for depth, quality in each])

    lead = bootstrap(lambda weights: weights @ taken - fixed(weights), count)
    shares = np.bincount(at, minlength=len(exits)) / count
    return Operating(
        beta,
        float(depths.mean()),
        float(taken.mean()),
        float(fixed(np.full((1, count), 1 / count))[0]),
        lead,
        float(shares @ data.quality.mean(axis=0)),
        {int(k): float(share) for k, share in zip(exits, shares, strict=True)},
    )


def oracle(data: ExitData, beta: float) -> Operating:
    """What a gate would reach that knew the qualities: a bound that none reaches, for it profits from their noise."""
    exits = np.asarray(data.exits)
    return operating(beta, exits[np.argmax(data.quality - beta * exits, axis=1)], data)


def trade_off(train: ExitData, held_out: ExitData, betas: Sequence[float]) -> list[tuple[Gate, Operating]]:
    """A gate for each beta, and where it stands on images that it has not seen."""
    gates = train_gates(train, betas, judge_trainings(train, betas).training)
    return [(gate, operating_point(gate, held_out)) for gate in gates]
