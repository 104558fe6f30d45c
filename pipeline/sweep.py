"""What a benchmark varies: the active fraction (sweep) and one threshold for all images (trade-off)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..runtime.layouts import shallow_and_deep
from .contenders import Choices, Contenders
from .ideal import ImageWork
from .masks import threshold_for
from .statistics import break_even, realization

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)
THRESHOLD_FRACTIONS = (0.03, 0.08, 0.15, 0.25, 0.45, 0.8)
NAMES = ("dense", "masked_dense", "adaptive", "selective")

Measure = Callable[
    [np.ndarray, Choices], tuple[float, ImageWork]
]  # (image, choices) -> active fraction, work


def sweep(
    contenders: Contenders,
    images: Sequence[np.ndarray],
    rounds: int,
    measure: Measure,
    tick: Callable[[], None],
) -> list[dict[str, Any]]:
    """report.json's `sweep`: real images, thresholds forced image by image. Empty without a mask."""
    if not contenders.reference.masks:
        return []
    points = []
    for fraction in FRACTIONS:
        choices = [contenders.reference.forced(image, fraction) for image in images]
        contenders.renew()
        times = contenders.time(NAMES, images, rounds, tick, choices)
        found = [measure(image, chosen) for image, chosen in zip(images, choices, strict=True)]
        share = float(np.mean([work.share for _, work in found]))
        dense, adaptive = times.ms("dense"), times.ms("adaptive")
        ratio = times.ratio("dense", "adaptive")
        points.append(
            {
                "target": fraction,
                "active_fraction": float(np.mean([active for active, _ in found])),
                **{f"{name}_ms": times.ms(name) for name in NAMES},
                "speedup": ratio.value,
                "speedup_interval": [ratio.low, ratio.high],
                "cpu_speedup": times.cpu_ms("dense") / times.cpu_ms("adaptive"),
                "ideal_speedup": 1 / share,
                "realization": realization(dense, adaptive, share),
            }
        )
    contenders.use(contenders.reference.choices)
    return points


def sweep_break_even(points: Sequence[dict[str, Any]]) -> float | None:
    """Of forced selective execution with the baseline: auto turns to dense there, so its own curve has no crossing."""
    if not points:
        return None
    return break_even(*([p[key] for p in points] for key in ("active_fraction", "dense_ms", "selective_ms")))


def worst_case(
    contenders: Contenders, images: Sequence[np.ndarray], rounds: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """report.json's `worst_case`: every position active; without a mask, all layers of an encoder with exits."""
    reference, names = contenders.reference, ("dense", "masked_dense", "adaptive")
    if reference.masks:
        choices = [reference.forced(image, 1.0) for image in images]
        contenders.renew()
    else:
        all_layers = {**reference.choices, **shallow_and_deep(contenders.manifest)[-1]}
        choices = [all_layers] * len(images)
    times = contenders.time(names, images, rounds, tick, choices)
    contenders.use(reference.choices)
    ratio = times.ratio("adaptive", "masked_dense")
    return {
        **{f"{name}_ms": times.ms(name) for name in names},
        "ratio": ratio.value,
        "ratio_interval": [ratio.low, ratio.high],
        "ratio_to_dense": times.ms("adaptive") / times.ms("dense"),
    }


def thresholds(contenders: Contenders, images: Sequence[np.ndarray]) -> list[Choices]:
    """Choices with one threshold for all images: quantiles of the logits of all of them. Empty without a mask."""
    reference = contenders.reference
    if not reference.masks:
        return []
    first = reference.masks[0]
    logits = np.concatenate([reference.logits(image)[0].ravel() for image in images])
    temperature = float(reference.choices[first.temperature])
    values = {threshold_for(logits, temperature, fraction) for fraction in THRESHOLD_FRACTIONS}
    return [{**reference.choices, first.threshold: value} for value in sorted(values)]


def tradeoff_times(
    contenders: Contenders,
    images: Sequence[np.ndarray],
    rounds: int,
    chosen: Sequence[Choices],
    dense_ms: float,
    tick: Callable[[], None],
) -> list[float]:
    """ms of each of `chosen`: its ratio to the baseline, from the same rounds, × `dense_ms`."""
    found = []
    for choices in chosen:
        contenders.renew()
        times = contenders.time(("dense", "adaptive"), images, rounds, tick, [choices] * len(images))
        found.append(dense_ms * times.ms("adaptive") / times.ms("dense"))
    contenders.use(contenders.reference.choices)
    return found
