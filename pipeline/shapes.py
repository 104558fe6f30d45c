"""What a benchmark varies of its images: how many run together, and their size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..runtime.errors import FoveateError
from ..runtime.manifest import Manifest, Pair
from ..runtime.padding import fitting_size
from ..runtime.resampling import bilinear
from .contenders import Contenders
from .ideal import mean_work
from .statistics import realization
from .sweep import Measure

NAMES = ("dense", "masked_dense", "adaptive")


def shape_sweep(
    contenders: Contenders,
    images: Sequence[np.ndarray],
    batches: Sequence[int],
    scales: Sequence[float],
    rounds: int,
    measure: Measure,
    tick: Callable[[], None],
) -> tuple[list[dict[str, Any]], list[str]]:
    """report.json's `shapes`, and a note for each shape that an engine does not take. `images`: [1, …], all of one
    shape; larger batches repeat them. `scales`: of their height and width."""
    points, notes = [], []
    for batch in _batches(contenders.manifest, images, batches, scales):
        try:
            points.append(_point(contenders, batch, rounds, measure, tick))
        except FoveateError as error:
            notes.append(f"Input {'×'.join(map(str, batch.shape))} was not measured: {error.got}.")
    return points, notes


def _batches(
    manifest: Manifest, images: Sequence[np.ndarray], batches: Sequence[int], scales: Sequence[float]
) -> Iterator[np.ndarray]:
    for count in batches:
        yield np.concatenate(list(itertools.islice(itertools.cycle(images), count)))
    for scale in scales:
        yield resized(images[0], scale, manifest)


def resized(image: np.ndarray, scale: float, manifest: Manifest) -> np.ndarray:
    """[1, C, H, W] or [1, H, W, C], as the bundle has it, to the nearest size that the program takes."""
    axis = 1 if manifest.preprocess.layout == "nhwc" else 2
    height, width = (max(1, round(scale * n)) for n in image.shape[axis : axis + 2])
    size: Pair = fitting_size((height, width), manifest)
    planes = np.moveaxis(image[0], -1, 0) if axis == 1 else image[0]
    made = np.stack([bilinear(plane, size) for plane in planes])
    return np.ascontiguousarray(np.moveaxis(made, 0, -1) if axis == 1 else made)[None]


def _point(
    contenders: Contenders, batch: np.ndarray, rounds: int, measure: Measure, tick: Callable[[], None]
) -> dict[str, Any]:
    own = contenders.reference.choices
    times = contenders.at(batch).time(NAMES, [batch], rounds, tick)
    count = len(batch)
    seen = {image.tobytes(): image for image in np.split(batch, count)}
    share = mean_work(measure(image, own)[1] for image in seen.values()).share
    ratio = times.ratio("dense", "adaptive")
    ms = {name: times.ms(name) / count for name in NAMES}
    axis = 1 if contenders.manifest.preprocess.layout == "nhwc" else 2
    return {
        "batch": count,
        "height": batch.shape[axis],
        "width": batch.shape[axis + 1],
        **{f"{name}_ms": value for name, value in ms.items()},
        **{f"{name}_enqueue_ms": times.enqueue_ms(name) / count for name in ("dense", "adaptive")},
        "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high],
        "ideal_speedup": 1 / share,
        "realization": realization(ms["dense"], ms["adaptive"], share),
    }
