"""Task metrics, by name. Each has one label format.

| metric | label of an image | output | value |
|---|---|---|---|
| `top1`, `top5` | int: the class | first: scores [1, K] | share of images with the label among the best |
| `agreement` | none | scores [1, K] or [1, K, H, W] | share of argmax equal to the dense reference's |
| `closeness` | none | floats, or integers | 1 − mean abs. difference ÷ range; mean over outputs |
| `mean_iou` | int map [H, W]; < 0, 255: ignored | scores [1, K, H, W], logits [1, 1, H, W] | mean over classes |
| `boundary_f` | as for `mean_iou` | as for `mean_iou` | F of the boundaries, mean over images, then classes |
| `pq` | Panoptic | class_queries_logits, masks_queries_logits | panoptic quality, mean over classes |
| `ap` | Panoptic | class_queries_logits, masks_queries_logits | average precision of masks, mean over things |
| `module:function` | what the function takes | all: function(outputs by name, label) -> float | mean over images |

All but `ap` are sums over images: what one adds are K pairs, an amount and of how much (`count_of`), and the value is
the mean of their ratios. Scores are the first output's. Where a program answers with queries, they become the map of
classes that `runtime.segmentation` makes of them, and of a Panoptic label `mean_iou` and `boundary_f` take the
categories.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime.bundle import hash_file
from ..runtime.errors import InputError
from ..runtime.segmentation import CLASSES, MASKS, semantic
from .boundary import boundary_scores
from .names import import_function
from .panoptic import Panoptic
from .panoptic_metrics import MaskPrecision, count_panoptic

Outputs = Mapping[str, np.ndarray]  # one image's outputs by name, in the program's order
# What one image (outputs, label, the dense reference's outputs) adds to a metric: float64 [K, 2], see `value_of`.
Count = Callable[[Outputs, Any, Outputs], np.ndarray]

IGNORED = 255  # the label value of pixels that count for nothing (VOC's convention)


class Metric(Protocol):
    """Fed one image at a time; `value` is in [0, 1] (own functions: as they return), NaN without images."""

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None: ...

    def value(self) -> float: ...


class Summed:
    """Of counts, summed over the images."""

    def __init__(self, count: Count):
        self._count, self._counts = count, np.zeros((0, 2))

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None:
        found = self._count(outputs, label, reference)
        self._counts = padded([self._counts, found]).sum(axis=0)

    def value(self) -> float:
        return float(value_of(self._counts))


def value_of(counts: np.ndarray) -> np.ndarray:
    """[…] of counts […, K, 2] (some amount, and of how much): the mean of their ratios over those K of which there is
    any; NaN where there is none."""
    amount, total = counts[..., 0], counts[..., 1]
    occurs = total > 0
    ratios = np.where(occurs, amount / np.where(occurs, total, 1), 0)
    some = occurs.sum(axis=-1)
    return np.where(some > 0, ratios.sum(axis=-1) / np.maximum(some, 1), np.nan)


def padded(counts: Sequence[np.ndarray]) -> np.ndarray:
    """[N, K, 2] of N counts [k, 2], each with as many classes as it met."""
    found = np.zeros((len(counts), max(len(each) for each in counts), 2))
    for row, each in zip(found, counts, strict=True):
        row[: len(each)] = each
    return found


def _topk(k: int) -> Count:
    """Whether the label is among the k highest scores."""

    def count(outputs: Outputs, label: Any, reference: Outputs) -> np.ndarray:
        scores = _first(outputs).reshape(-1)
        wanted = _integer(label, f"top{k}")
        if not 0 <= wanted < scores.size:
            raise InputError(
                f"metric top{k}",
                got=f"label {wanted}",
                expected=f"0 … {scores.size - 1}, as the program has {scores.size} scores",
                fix="Check the order and number of the classes in --data.",
            )
        mine = scores[wanted]  # ties go to the lower class, as argmax does: a constant output must not score
        ahead = np.count_nonzero(scores > mine) + np.count_nonzero(scores[:wanted] == mine)
        return _one(ahead < k and bool(np.isfinite(scores).all()))

    return count


def _agreement(outputs: Outputs, label: Any, reference: Outputs) -> np.ndarray:
    """Share of equal classes (per image, or per pixel) with the dense reference's; needs no label."""
    ours, theirs = _classes(outputs), _classes(reference)
    return _one(np.mean(ours == theirs) if ours.shape == theirs.shape else 0.0)


def _closeness(outputs: Outputs, label: Any, reference: Outputs) -> np.ndarray:
    """Of each output in floats: the range of the dense reference's values less the mean |difference|, and that range;
    of integers the share that is equal. Needs no label."""
    found = []
    for name, wanted in reference.items():
        ours = outputs[name]
        if ours.shape != wanted.shape:
            raise InputError(
                "metric closeness",
                got=f"an output {name} of shape {list(ours.shape)}, where the dense program's is {list(wanted.shape)}",
                expected="outputs whose shape is that of the image, or fixed; no lists of detections",
                fix="Pass --metric module:function.",
            )
        if wanted.dtype.kind != "f":
            found.append((float(np.mean(ours == wanted)), 1.0))
            continue
        error = np.abs(ours.astype(np.float64) - wanted).mean() if wanted.size else 0.0
        span = float(np.ptp(wanted)) if wanted.size else 0.0
        found.append((span - error, span))
    return np.array(found, np.float64)


def _mean_iou(outputs: Outputs, label: Any, reference: Outputs) -> np.ndarray:
    """Intersection and union of each class."""
    wanted, classes, counted = _maps(outputs, label, "mean_iou")
    pairs = wanted[counted], classes[counted]
    size = 1 + max(int(pixels.max(initial=-1)) for pixels in pairs)
    both = np.bincount(pairs[0][pairs[0] == pairs[1]], minlength=size)
    areas = [np.bincount(pixels, minlength=size) for pixels in pairs]
    return np.stack([both, areas[0] + areas[1] - both], axis=1).astype(np.float64)


def _boundary_f(outputs: Outputs, label: Any, reference: Outputs) -> np.ndarray:
    return boundary_scores(*_maps(outputs, label, "boundary_f"))


def _maps(outputs: Outputs, label: Any, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label and answer, int64 [H, W], and bool [H, W]: which pixels count."""
    wanted = label.categories if isinstance(label, Panoptic) else np.asarray(label)
    classes = _classes(outputs, wanted.shape)[0]
    if wanted.shape != classes.shape or wanted.dtype.kind not in "iu":
        raise InputError(
            f"metric {metric}",
            got="no label" if label is None else f"labels {wanted.dtype} {list(wanted.shape)}",
            expected=f"an int map {list(classes.shape)}, the size of the output",
            fix="Give --data with label maps, or choose another --metric.",
        )
    counted = (wanted >= 0) & ((wanted != IGNORED) | isinstance(label, Panoptic))
    return wanted.astype(np.int64), classes, counted


def _own(function: Callable[[Outputs, Any], float]) -> Count:
    """The user's `function(outputs, label) -> float`; NaN: not defined on this image."""
    return lambda outputs, label, reference: _one(float(function(outputs, label)))


def _each_image(metric: Callable[[], Metric]) -> Count:
    def count(outputs: Outputs, label: Any, reference: Outputs) -> np.ndarray:
        measured = metric()
        measured.update(outputs, label, reference)
        return _one(measured.value())

    return count


def _one(value: float) -> np.ndarray:
    return np.zeros((1, 2)) if np.isnan(value) else np.array([[value, 1.0]], np.float64)


COUNTS: dict[str, Count] = {
    "top1": _topk(1),
    "top5": _topk(5),
    "agreement": _agreement,
    "closeness": _closeness,
    "mean_iou": _mean_iou,
    "boundary_f": _boundary_f,
    "pq": count_panoptic,
    "ap": _each_image(MaskPrecision),  # ranks the masks of all images: no sum has its value
}


def count_of(name: str) -> Count:
    """What one image adds to the metric of that name (a row of this module's table). Raises InputError."""
    if ":" in name:
        return _own(import_function(name, "metric"))
    if name not in COUNTS:
        raise InputError(
            "metric",
            got=repr(name),
            expected=", ".join([*COUNTS, "module:function"]),
            fix="Correct --metric.",
        )
    return COUNTS[name]


def open_metric(name: str) -> Metric:
    """A fresh metric of that name (a row of this module's table). Raises InputError."""
    return MaskPrecision() if name == "ap" else Summed(count_of(name))


def metric_source(name: str) -> str:
    """What answers in a metric hold for: its name, and of a user's function the file that has it."""
    source = inspect.getsourcefile(inspect.unwrap(import_function(name, "metric"))) if ":" in name else None
    return f"{name} {hash_file(Path(source))}" if source else name


def metric_for(label: Any) -> str:
    """The metric to use when the user names none: what the label of the first image allows."""
    if label is None:
        return "agreement"
    if isinstance(label, Panoptic):
        return "pq"
    return "top1" if np.ndim(label) == 0 else "mean_iou"


def _first(outputs: Outputs) -> np.ndarray:
    return next(iter(outputs.values()))


def _classes(outputs: Outputs, size: tuple[int, ...] | None = None) -> np.ndarray:
    """The classes, [1] or [1, H, W]. Queries are asked for a map of `size`; otherwise the first output's scores
    [1, K, …] decide, of which a single channel holds logits of class 1 against class 0."""
    if CLASSES in outputs and MASKS in outputs:
        sizes = [(size[0], size[1])] if size and len(size) == 2 else None
        return np.stack(semantic(outputs, target_sizes=sizes))
    scores = _first(outputs)
    if scores.shape[1] == 1:
        return (scores[:, 0] > 0).astype(np.int64)
    return scores.argmax(1)


def _integer(label: Any, metric: str) -> int:
    if np.ndim(label) == 0 and np.asarray(label).dtype.kind in "iu":
        return int(label)
    raise InputError(
        f"metric {metric}",
        got="no label" if label is None else f"label {label!r}",
        expected="an int, the class",
        fix="Give labelled --data (class folders, or npz with `labels`), or --metric agreement.",
    )
