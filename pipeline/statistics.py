"""Statistics of a benchmark: confidence intervals, tails, realization, break-even."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Samples from which a percentile may be quoted with 99 % confidence (binomial early stopping, d = 0).
MIN_SAMPLES = {"p50": 1, "p90": 64, "p99": 662}
Samples = Sequence[float] | np.ndarray
TOO_SMALL = "n too small"
HIGHEST_ACTIVE = 0.95  # above this share of active work there is nothing left to realize: n/a


@dataclass(frozen=True)
class Ratio:
    """A ratio of mean times with its bootstrap confidence interval [low, high]."""

    value: float
    low: float
    high: float


def bootstrap_ratio(
    numerator: Samples,
    denominator: Samples,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Ratio:
    """mean(numerator) ÷ mean(denominator) of paired samples (same image, same round), both > 0.

    Percentile bootstrap over pairs, widened to hold the point itself, which a few skewed samples can miss.
    """
    above, below = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if above.shape != below.shape or above.ndim != 1 or not len(above):
        raise ValueError(f"paired samples of shape {above.shape} and {below.shape}")
    low, high = bootstrap(lambda w: (w @ above) / (w @ below), len(above), confidence, draws, seed)
    value = float(above.mean() / below.mean())
    return Ratio(value, min(low, value), max(high, value))


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    samples: int,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of a statistic of this many samples. `statistic` takes weights of the samples,
    [M, samples], whose rows have sum 1, and gives [M] values."""
    counts = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), draws)
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(counts / samples), [tail, 1 - tail])
    return float(low), float(high)


def percentiles(samples_ms: np.ndarray) -> dict[str, float | str]:
    """p50, p90 and p99 of individual calls, ms; a percentile that `n` cannot support reads "n too small"."""
    flat = np.asarray(samples_ms, np.float64).ravel()
    return {
        name: float(np.percentile(flat, float(name[1:]))) if flat.size >= least else TOO_SMALL
        for name, least in MIN_SAMPLES.items()
    }


def realization(dense_ms: float, adaptive_ms: float, ideal_share: float) -> float | None:
    """(T_dense − T_adaptive) ÷ (T_dense − T_ideal), T_ideal = T_dense × `ideal_share`; None above 95 %."""
    if ideal_share > HIGHEST_ACTIVE:
        return None
    return (dense_ms - adaptive_ms) / (dense_ms * (1 - ideal_share))


def efficiency(dense_ms: float, adaptive_ms: float, ideal_share: float) -> float:
    """T_ideal ÷ T_adaptive."""
    return dense_ms * ideal_share / adaptive_ms


def break_even(active: Samples, dense_ms: Samples, adaptive_ms: Samples) -> float:
    """The active fraction at which adaptive and dense cost the same, in [0, 1].

    Linear between the sweep's points, up to the first point at which adaptive no longer wins. 1: it wins
    throughout the sweep; 0: nowhere. Points need not be sorted.
    """
    order = np.argsort(active)
    fraction = np.asarray(active, np.float64)[order]
    gain = (np.asarray(dense_ms, np.float64) - np.asarray(adaptive_ms, np.float64))[order]
    losses = np.flatnonzero(gain <= 0)
    if not len(losses):
        return 1.0
    first = int(losses[0])
    if first == 0:
        return 0.0
    share = gain[first - 1] / (gain[first - 1] - gain[first])
    return float(fraction[first - 1] + share * (fraction[first] - fraction[first - 1]))
