"""Measurements as parts of report.json (docs/report.md)."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.bundle import hash_file
from ..runtime.errors import InputError, MissingExtraError
from .accuracy import Accuracy, active_fraction
from .contenders import Choices, Contenders
from .data import Dataset, Sample
from .ideal import ImageWork
from .interleave import Times
from .mixed import time_mixed
from .overlays import overlay
from .report_exits import read_curve
from .report_schema import SCHEMA_VERSION
from .statistics import efficiency, percentiles, realization
from .verify_report import VerifyReport
from .waterfall import Waterfall

OVERLAYS = 6
MIXED = 16  # images of a batch of mixed depths
CONTENDERS = ("dense", "masked_dense", "adaptive")


@dataclass(frozen=True)
class Headline:
    times: Times
    waterfall: Waterfall
    active: list[float]  # of each timed image
    work: ImageWork
    balance: float
    depths: list[int]  # of each timed call, of programs with exits


def headline_facts(contenders: Contenders, headline: Headline) -> dict[str, Any]:
    """The headline's part of the result."""
    times, work = headline.times, headline.work
    dense, adaptive = times.ms("dense"), times.ms("adaptive")
    speedup = times.ratio("dense", "adaptive")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": contenders.manifest.name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "speedup": speedup.value,
        "speedup_interval": [speedup.low, speedup.high],
        "cpu_speedup": times.cpu_ms("dense") / times.cpu_ms("adaptive"),
        "masked_speedup": times.ms("masked_dense") / adaptive,
        "ideal_speedup": 1 / work.share,
        "realization": realization(dense, adaptive, work.share),
        "efficiency": efficiency(dense, adaptive, work.share),
        "active_fraction": float(np.mean(headline.active)),
        **mean_times(times),
        "baseline": {
            "kind": _kind(contenders),
            "file": contenders.baseline_file.name,
            "settings": contenders.dense.words(),
        },
        "masked_dense_settings": contenders.masked.words(),
        "latency": {name: _latency(times, name) for name in CONTENDERS},
        "work": {
            **{
                key: getattr(work, key)
                for key in ("dense_macs", "active_macs", "dense_bytes", "active_bytes")
            },
            "macs_per_byte": headline.balance,
            "ideal_share": work.share,
        },
        "waterfall": headline.waterfall.parts(adaptive),
        "strategies": headline.waterfall.strategies(),
    }


def _kind(contenders: Contenders) -> str:
    if contenders.baseline:
        return "unmasked"
    return "masked program" if contenders.reference.masks else "program"


def exits_facts(contenders: Contenders, headline: Headline) -> dict[str, Any] | None:
    """What depths the timed images took, and the curve of the bundle's calibration; None without exits."""
    step = contenders.manifest.exit_step
    if step is None or not headline.depths:
        return None
    exits, counts = np.unique(headline.depths, return_counts=True)
    return {
        "layout": contenders.auto.layout,
        "layers": max(step.exits),
        "mean_depth": float(np.mean(headline.depths)),
        "shares": {str(k): float(n / counts.sum()) for k, n in zip(exits, counts, strict=True)},
        "calibrated": read_curve(contenders.bundle, contenders.manifest),
    }


def mixed_facts(
    contenders: Contenders,
    images: Sequence[np.ndarray],
    headline: Headline,
    rounds: int,
    tick: Callable[[], None],
) -> tuple[dict[str, Any] | None, list[str]]:
    """A batch whose images take all depths in turn, and a note where no gate can mix these images; None without exits,
    and where batches are not measured."""
    step, testbed = contenders.auto.manifest.exit_step, contenders.testbed
    if step is None or not step.gate or not testbed.batches or contenders.shape is None:
        return None, []
    batch = np.concatenate(images[:MIXED])
    dense = contenders.at(batch).run("dense")
    try:
        placed = testbed.place(batch)
        others = {"dense": dense}
        mixed, times = time_mixed(contenders.auto, batch, placed, others, rounds, tick, testbed.timer)
    except InputError as error:
        return None, [f"{error.what[:1].upper()}{error.what[1:]} was not measured: {error.got}."]
    count = len(batch)
    facts = {
        "batch": count,
        "depths": list(mixed.depths),
        "dense_ms": times.ms("dense") / count,
        "mixed_ms": mixed.mixed_ms / count,
        "ideal_ms": mixed.ideal_ms / count,
        "speedup": times.ratio("dense", "mixed").value,
        "of_ideal": mixed.ideal_ms / mixed.mixed_ms,
    }
    return facts, []


def energy_facts(contenders: Contenders, images: Sequence[np.ndarray]) -> dict[str, float] | None:
    """Joules an image by contender, over the timed images in turn; None where they cannot be measured."""
    placed = itertools.cycle([contenders.testbed.place(image) for image in images])
    found: dict[str, float] = {}
    for name in CONTENDERS:
        run = contenders.run(name)
        joules = contenders.testbed.joules(lambda run=run: run(next(placed)))
        if joules is None:
            return None
        found[name] = joules
    return found


def mean_times(times: Times) -> dict[str, float]:
    return {f"{name}_ms": times.ms(name) for name in CONTENDERS}


def _latency(times: Times, name: str) -> dict[str, Any]:
    tails = {f"{key}_ms": value for key, value in percentiles(times.wall[name]).items()}
    return {
        "mean_ms": times.ms(name),
        "cpu_ms": times.cpu_ms(name),
        "enqueue_ms": times.enqueue_ms(name),
        **tails,
        "n": int(times.wall[name].size),
    }


def tradeoff_facts(
    contenders: Contenders, chosen: Sequence[Choices], accuracy: Accuracy, spent: Sequence[float]
) -> list[dict[str, float]]:
    rows = zip(chosen, accuracy.active, spent, accuracy.at, strict=True)
    return [
        {
            "threshold": float(choices[contenders.reference.masks[0].threshold]),
            "active_fraction": active,
            "ms": ms,
            "accuracy": value,
        }
        for choices, active, ms, value in rows
    ]


def accuracy_facts(accuracy: Accuracy) -> dict[str, Any]:
    keys = ("metric", "images", "dense", "masked_dense", "adaptive")
    return {key: getattr(accuracy, key) for key in keys}


def parity_facts(report: VerifyReport) -> dict[str, Any]:
    """Those of the strategy that agrees least."""
    worst = report.worst
    return {
        "max_rel_error": worst.max_rel_error if np.isfinite(worst.max_rel_error) else None,
        "decision_agreement": worst.decision_agreement,
        "images": worst.images,
        "images_agreeing": worst.images_agreeing,
        "flips": worst.flips,
        "near_flips": worst.near_flips,
        "tolerance": report.tolerance,
        "worst_image": worst.worst_image,
        "passed": report.passed,
    }


def overlay_facts(
    contenders: Contenders, samples: Sequence[Sample]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Pictures of the first decision on a few images, and a note if they cannot be drawn."""
    found = []
    for sample in itertools.islice(samples, OVERLAYS if contenders.manifest.decisions else 0):
        result = contenders.auto(sample.image)
        keep = np.asarray(result.decisions[contenders.manifest.decisions[0].name].keep)
        try:
            pictures = overlay(sample.image, keep, contenders.manifest.preprocess)
        except MissingExtraError as error:
            return [], [f"Pictures of the masks are missing: {error.fix} to have them."]
        found.append({"name": Path(sample.name).name, "active_fraction": active_fraction(result), **pictures})
    return found, []


def hashes(contenders: Contenders, data: Dataset) -> dict[str, str]:
    """sha256 by name: what was measured, on what, against what."""
    files = {name: entry.sha256 for name, entry in sorted(contenders.manifest.files.items())}
    if contenders.baseline is not None:
        files[f"baseline {contenders.baseline.name}"] = hash_file(contenders.baseline)
    if Path(data.spec).is_file():
        files[f"data {Path(data.spec).name}"] = hash_file(Path(data.spec))
    return files
