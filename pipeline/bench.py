"""Bench: a bundle against the strongest dense engine, interleaved, on real images.

The rules that the figures follow are in docs/report.md, beside every key of the result. Contenders are opened and
tuned in `contenders`, timed in `interleave`; `statistics`, `ideal` and `sweep` say what the times mean.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.bundle import hash_file
from ..runtime.errors import MissingExtraError
from .accuracy import Accuracy, active_fraction, measure_accuracy
from .contenders import Choices, Contenders, open_contenders
from .data import Dataset, Sample
from .environment import describe, usable_cores
from .ideal import ImageWork, WorkMeter, mean_work
from .interleave import Times
from .overlays import overlay
from .report_schema import SCHEMA_VERSION, check_report
from .statistics import bootstrap_ratio, efficiency, percentiles, realization
from .sweep import sweep, sweep_break_even, thresholds, tradeoff_times, worst_case
from .verify import verify
from .waterfall import Waterfall

TIMED_IMAGES, ROUNDS = 32, 4
SWEEP_IMAGES = 4
PARITY_IMAGES = 64
OVERLAYS = 6
NEVER_SLOWER = 1.05


@dataclass(frozen=True)
class _Headline:
    times: Times
    waterfall: Waterfall
    active: list[float]  # of each timed image
    work: ImageWork
    balance: float


def bench(
    bundle: str | Path,
    data: Dataset,
    *,
    baseline: str | Path | None = None,
    metric: str | None = None,
    limit: int | None = None,
    threads: int | None = None,
    images: int = TIMED_IMAGES,
    rounds: int = ROUNDS,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure `bundle` on `data`; returns a result in report.json's schema (docs/report.md).

    `baseline`: ONNX file of the same architecture trained without masks, for speed and accuracy; without it the
    masked program is the baseline. `metric`: a name of `metrics` (default: what the labels allow). Accuracy is taken
    over the first `limit` images of `data` (default all), times over the first `images` of them, `rounds` times.
    `threads` of every engine (default: all usable cores). `tick` is called at every step, for progress.
    Raises InputError, BundleError, MissingExtraError.
    """
    folder, threads = Path(bundle), threads or usable_cores()
    samples = list(data.samples(min(images, limit or images)))
    timed = [sample.image for sample in samples]
    with open_contenders(folder, None if baseline is None else Path(baseline), threads, timed) as contenders:
        measure = _Measure(contenders)
        headline = _time_headline(contenders, timed, rounds, measure, tick)
        few = timed[:SWEEP_IMAGES]
        points = sweep(contenders, few, rounds, measure, tick)
        chosen = thresholds(contenders, timed)
        accuracy = measure_accuracy(contenders, data, limit, metric, chosen, tick)
        spent = tradeoff_times(contenders, few, rounds, chosen, headline.times.ms("dense"), tick)
        overlays, notes = _overlays(contenders, samples)
        result = {
            **_facts(contenders, headline),
            "sweep": points,
            "break_even": sweep_break_even(points),
            "worst_case": worst_case(points, _means(headline.times)),
            "tradeoff": _tradeoff(contenders, chosen, accuracy, spent),
            "accuracy": {
                key: getattr(accuracy, key)
                for key in ("metric", "images", "dense", "masked_dense", "adaptive")
            },
            "overlays": overlays,
            "settings": {
                "data": data.spec,
                "images": len(timed),
                "rounds": rounds,
                "threads": threads,
                "shape": list(timed[0].shape),
            },
            "environment": describe(threads, _hashes(contenders, data), contenders.manifest.backend),
        }
    result["parity"] = _parity(folder, data, min(limit or PARITY_IMAGES, PARITY_IMAGES), threads, tick)
    result["notes"] = [*notes, *_notes(result)]
    check_report(result)
    return result


class _Measure:
    """(image, choices) -> active fraction and work of one image."""

    def __init__(self, contenders: Contenders):
        self.contenders = contenders
        program = contenders.bundle / contenders.manifest.program
        self.meter = WorkMeter(program, contenders.manifest, contenders.threads)

    def __call__(self, image: np.ndarray, choices: Choices) -> tuple[float, ImageWork]:
        self.contenders.use(choices)
        return active_fraction(self.contenders.auto(image)), self.meter(image, choices)


def _time_headline(
    contenders: Contenders,
    images: Sequence[np.ndarray],
    rounds: int,
    measure: _Measure,
    tick: Callable[[], None],
) -> _Headline:
    waterfall = Waterfall(contenders.manifest)
    names = ("dense", "masked_dense", "adaptive") if contenders.baseline else ("masked_dense", "adaptive")
    times = contenders.time(names, images, rounds, tick, record=waterfall.record)
    if contenders.baseline is None:
        times.wall["dense"], times.cpu["dense"] = times.wall["masked_dense"], times.cpu["masked_dense"]
    found = [measure(image, contenders.reference.choices) for image in images]
    work = mean_work(work for _, work in found)
    return _Headline(times, waterfall, [active for active, _ in found], work, measure.meter.balance)


def _facts(contenders: Contenders, headline: _Headline) -> dict[str, Any]:
    """The headline's part of the result."""
    times, work = headline.times, headline.work
    dense, adaptive = times.ms("dense"), times.ms("adaptive")
    speedup = bootstrap_ratio(times.samples("dense"), times.samples("adaptive"))
    return {
        "schema_version": SCHEMA_VERSION,
        "name": contenders.manifest.name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "speedup": dense / adaptive,
        "speedup_interval": [min(speedup.low, dense / adaptive), max(speedup.high, dense / adaptive)],
        "cpu_speedup": times.cpu_ms("dense") / times.cpu_ms("adaptive"),
        "masked_speedup": times.ms("masked_dense") / adaptive,
        "ideal_speedup": 1 / work.share,
        "realization": realization(dense, adaptive, work.share),
        "efficiency": efficiency(dense, adaptive, work.share),
        "active_fraction": float(np.mean(headline.active)),
        **_means(times),
        "baseline": {
            "kind": "unmasked" if contenders.baseline else "masked program",
            "file": contenders.baseline_file.name,
            "settings": contenders.dense.settings.words(),
        },
        "masked_dense_settings": contenders.masked.settings.words(),
        "latency": {name: _latency(times, name) for name in ("dense", "masked_dense", "adaptive")},
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


def _means(times: Times) -> dict[str, float]:
    return {f"{name}_ms": times.ms(name) for name in ("dense", "masked_dense", "adaptive")}


def _latency(times: Times, name: str) -> dict[str, Any]:
    tails = {f"{key}_ms": value for key, value in percentiles(times.wall[name]).items()}
    return {
        "mean_ms": times.ms(name),
        "cpu_ms": times.cpu_ms(name),
        **tails,
        "n": int(times.wall[name].size),
    }


def _tradeoff(
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


def _parity(
    bundle: Path, data: Dataset, limit: int, threads: int, tick: Callable[[], None]
) -> dict[str, Any]:
    report = verify(bundle, data, limit=limit, threads=threads, tick=tick)
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


def _overlays(contenders: Contenders, samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], list[str]]:
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


def _hashes(contenders: Contenders, data: Dataset) -> dict[str, str]:
    """sha256 by name: what was measured, on what, against what."""
    files = {name: entry.sha256 for name, entry in sorted(contenders.manifest.files.items())}
    if contenders.baseline is not None:
        files[f"baseline {contenders.baseline.name}"] = hash_file(contenders.baseline)
    if Path(data.spec).is_file():
        files[f"data {Path(data.spec).name}"] = hash_file(Path(data.spec))
    return files


def _notes(result: dict[str, Any]) -> list[str]:
    notes = []
    if result["baseline"]["kind"] != "unmasked":
        notes.append(
            "No unmasked baseline was given: speed and accuracy are compared with the masked program run densely, "
            "which is slower than the network that one would otherwise ship. This flatters the speedup."
        )
    if not result["sweep"]:
        notes.append("The program has no mask: nothing can be skipped.")
    if result["realization"] is None:
        notes.append("More than 95 % of the work is active: there is no saving to realize.")
    if result["accuracy"]["metric"] == "agreement":
        notes.append("The data has no labels: the metric is agreement with the masked program run densely.")
    if result["worst_case"]["ratio"] > NEVER_SLOWER:
        notes.append(
            f"With every position active the bundle took {result['worst_case']['ratio']:.2f} times as long as its "
            f"program run densely, which should be at most {NEVER_SLOWER}."
        )
    return [*notes, *_machine_notes(result["environment"])]


def _machine_notes(environment: dict[str, Any]) -> list[str]:
    load, cores = (environment["load_average"] or [0.0])[0], environment["usable_cores"]
    if load > cores + 0.5:
        busy = f"The machine was busy (load {load:.1f} on {cores} cores)"
        return [f"{busy}: times are long and noisy, ratios and CPU times hold better."]
    if environment["governor"] != "performance":
        return ["Clocks were not fixed and the machine may have been shared: trust ratios, not times."]
    return []
