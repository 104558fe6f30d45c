"""Bench: a bundle against the strongest dense engine, interleaved, on real images.

The rules that the figures follow are in docs/report.md, beside every key of the result. Contenders are opened and
tuned in `contenders`, timed in `interleave`; `statistics`, `ideal` and `sweep` say what the times mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import Result
from ..runtime.engine import Config
from .accuracy import active_fraction, measure_accuracy
from .bench_notes import notes_of
from .bench_result import (
    Headline,
    accuracy_facts,
    energy_facts,
    exits_facts,
    hashes,
    headline_facts,
    mixed_facts,
    overlay_facts,
    parity_facts,
    tradeoff_facts,
)
from .contenders import Choices, Contenders, open_contenders
from .data import Dataset
from .environment import describe, usable_cores
from .ideal import ImageWork, WorkMeter, mean_work
from .report_budget import read_tradeoff
from .report_schema import check_report
from .shapes import shape_sweep
from .sweep import sweep, sweep_break_even, thresholds, tradeoff_times, worst_case
from .verify import verify
from .waterfall import Waterfall

TIMED_IMAGES, ROUNDS = 32, 4
SWEEP_IMAGES = 4
WORST_IMAGES = 16
TRADEOFF_ROUNDS = 2
PARITY_IMAGES = 64


def bench(
    bundle: str | Path,
    data: Dataset,
    *,
    baseline: str | Path | None = None,
    metric: str | None = None,
    backend: str | Config | None = None,
    limit: int | None = None,
    threads: int | None = None,
    images: int = TIMED_IMAGES,
    rounds: int = ROUNDS,
    batches: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure `bundle` on `data`; returns a result in report.json's schema (docs/report.md).

    `baseline`: ONNX file of the same architecture trained without masks, for speed and accuracy; without it the
    program, run densely, is the baseline. `backend`: as of `foveate.load`; on a GPU, dense engines
    are its, too. `metric`: a name of `metrics` (default: what the labels allow). Accuracy is taken over the first
    `limit` images of `data` (default all), times over the first `images` of them, `rounds` times.
    `threads` of every engine (default: all usable cores). `batches` are measured beside single images, and images of
    other sizes, by `scales` of their height and width (default: on a GPU 1, 4, 16, 64 and ½, 1, 2; none on a CPU).
    `tick` is called at every step, for progress.
    Raises InputError, BundleError, MissingExtraError.
    """
    folder, threads = Path(bundle), threads or usable_cores()
    samples = list(data.samples(min(images, limit or images)))
    timed = [sample.image for sample in samples]
    against = None if baseline is None else Path(baseline)
    with open_contenders(folder, against, threads, timed, backend) as contenders:
        measure = _Measure(contenders)
        headline = _time_headline(contenders, timed, rounds, measure, tick)
        points = sweep(contenders, timed[:SWEEP_IMAGES], rounds, measure, tick)
        chosen = thresholds(contenders, timed)
        accuracy = measure_accuracy(contenders, data, limit, metric, chosen, tick)
        spent = tradeoff_times(contenders, timed, TRADEOFF_ROUNDS, chosen, headline.times.ms("dense"), tick)
        testbed = contenders.testbed
        shapes, refused = shape_sweep(
            contenders,
            timed if contenders.shape else timed[:1],
            testbed.batches if batches is None else batches,
            testbed.scales if scales is None else scales,
            rounds,
            measure,
            tick,
        )
        mixed, unmixed = mixed_facts(contenders, timed, headline, rounds, tick)
        overlays, notes = overlay_facts(contenders, samples)
        result = {
            **headline_facts(contenders, headline),
            "sweep": points,
            "break_even": sweep_break_even(points),
            "worst_case": worst_case(contenders, timed[:WORST_IMAGES], rounds, tick),
            "tradeoff": tradeoff_facts(contenders, chosen, accuracy, spent),
            "accuracy": accuracy_facts(accuracy),
            "exits": exits_facts(contenders, headline),
            "budget": read_tradeoff(folder, contenders.manifest),
            "shapes": shapes,
            "mixed": mixed,
            "energy": energy_facts(contenders, timed),
            "gpu": testbed.facts(),
            "overlays": overlays,
            "settings": {
                "data": data.spec,
                "images": len(timed),
                "rounds": rounds,
                "sweep_images": min(SWEEP_IMAGES, len(timed)),
                "worst_images": min(WORST_IMAGES, len(timed)),
                "threads": threads,
                "shape": list(timed[0].shape),
            },
            "environment": describe(threads, hashes(contenders, data), contenders.auto.backend),
        }
    compared = min(limit or PARITY_IMAGES, PARITY_IMAGES)
    result["parity"] = parity_facts(
        verify(folder, data, limit=compared, backend=backend, threads=threads, tick=tick)
    )
    result["notes"] = [*notes, *refused, *unmixed, *notes_of(result)]
    check_report(result)
    return result


class _Measure:
    """(image, choices) -> active fraction and work of one image."""

    def __init__(self, contenders: Contenders):
        self.contenders = contenders
        program = contenders.bundle / contenders.manifest.program
        balance = contenders.testbed.balance()
        self.meter = WorkMeter(program, contenders.manifest, contenders.threads, balance)

    def __call__(self, image: np.ndarray, choices: Choices) -> tuple[float, ImageWork]:
        self.contenders.use(choices)
        result = self.contenders.auto(image)
        depth = None if result.depth is None else int(result.depth[0])
        return active_fraction(result), self.meter(image, choices, depth)


def _time_headline(
    contenders: Contenders,
    images: Sequence[np.ndarray],
    rounds: int,
    measure: _Measure,
    tick: Callable[[], None],
) -> Headline:
    waterfall = Waterfall(contenders.manifest)
    names = ("dense", "masked_dense", "adaptive") if contenders.baseline else ("masked_dense", "adaptive")
    depths: list[int] = []

    def record(result: Result) -> None:
        waterfall.record(result)
        depths.extend([] if result.depth is None else result.depth.tolist())

    times = contenders.time(names, images, rounds, tick, record=record)
    if contenders.baseline is None:
        for each in (times.wall, times.cpu, times.enqueue):
            each["dense"] = each["masked_dense"]
    found = [measure(image, contenders.reference.choices) for image in images]
    work = mean_work(work for _, work in found)
    return Headline(times, waterfall, [active for active, _ in found], work, measure.meter.balance, depths)
