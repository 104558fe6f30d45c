"""Task metrics, by name. Each has one label format.

| metric | label of an image | output | value |
|---|---|---|---|
| `top1`, `top5` | int: the class | first: scores [1, K] | share of images with the label among the best |
| `agreement` | none | scores [1, K] or [1, K, H, W] | share of argmax equal to the dense reference's |
| `mean_iou` | int map [H, W]; < 0, 255: ignored | scores [1, K, H, W], logits [1, 1, H, W] | mean over classes |
| `pq` | Panoptic | class_queries_logits, masks_queries_logits | panoptic quality, mean over classes |
| `ap` | Panoptic | class_queries_logits, masks_queries_logits | average precision of masks, mean over things |
| `module:function` | what the function takes | all: function(outputs by name, label) -> float | mean over images |

Scores are the first output's. Where a program answers with queries, they become the map of classes that
`runtime.segmentation` makes of them, and `mean_iou` takes a Panoptic label's categories too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ..runtime.errors import InputError
from ..runtime.segmentation import CLASSES, MASKS, semantic
from .names import import_function
from .panoptic import Panoptic
from .panoptic_metrics import MaskPrecision, PanopticQuality

Outputs = Mapping[str, np.ndarray]  # one image's outputs by name, in the program's order

IGNORED = 255  # the label value of pixels that count for nothing (VOC's convention)


class Metric(Protocol):
    """Fed one image at a time; `value` is in [0, 1] (own functions: as they return), NaN without images."""

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None: ...

    def value(self) -> float: ...


class TopK:
    """Share of images whose label is among the k highest scores."""

    def __init__(self, k: int):
        self.k, self.hits, self.images = k, 0, 0

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None:
        scores = _first(outputs).reshape(-1)
        wanted = _integer(label, f"top{self.k}")
        if not 0 <= wanted < scores.size:
            raise InputError(
                f"metric top{self.k}",
                got=f"label {wanted}",
                expected=f"0 … {scores.size - 1}, as the program has {scores.size} scores",
                fix="Check the order and number of the classes in --data.",
            )
        mine = scores[wanted]  # ties go to the lower class, as argmax does: a constant output must not score
        ahead = np.count_nonzero(scores > mine) + np.count_nonzero(scores[:wanted] == mine)
        self.hits += int(ahead < self.k and bool(np.isfinite(scores).all()))
        self.images += 1

    def value(self) -> float:
        return self.hits / self.images if self.images else float("nan")


class Agreement:
    """Share of equal classes (per image, or per pixel) with the dense reference's; needs no label."""

    def __init__(self):
        self.shares: list[float] = []

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None:
        ours, theirs = _classes(outputs), _classes(reference)
        self.shares.append(float(np.mean(ours == theirs)) if ours.shape == theirs.shape else 0.0)

    def value(self) -> float:
        return float(np.mean(self.shares)) if self.shares else float("nan")


class MeanIoU:
    """Intersection ÷ union of each class, summed over all images; then the mean over classes that occur."""

    def __init__(self):
        self.confusion = np.zeros((0, 0), np.int64)  # [label, class]

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None:
        wanted = label.categories if isinstance(label, Panoptic) else np.asarray(label)
        classes = _classes(outputs, wanted.shape)[0]
        if wanted.shape != classes.shape or wanted.dtype.kind not in "iu":
            raise InputError(
                "metric mean_iou",
                got="no label" if label is None else f"labels {wanted.dtype} {list(wanted.shape)}",
                expected=f"an int map {list(classes.shape)}, the size of the output",
                fix="Give --data with label maps, or choose another --metric.",
            )
        counted = (wanted >= 0) & ((wanted != IGNORED) | isinstance(label, Panoptic))
        pairs = np.stack([wanted[counted].astype(np.int64), classes[counted]])
        size = max(int(pairs.max(initial=0)) + 1, len(self.confusion))
        grown = np.zeros((size, size), np.int64)
        grown[: len(self.confusion), : len(self.confusion)] = self.confusion
        self.confusion = grown + np.bincount(pairs[0] * size + pairs[1], minlength=size**2).reshape(
            size, size
        )

    def value(self) -> float:
        both = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - both
        return float(np.mean(both[union > 0] / union[union > 0])) if union.any() else float("nan")


class Mean:
    """The mean over images of the user's `function(outputs, label) -> float`."""

    def __init__(self, function: Callable[[Outputs, Any], float]):
        self.function, self.values = function, []

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None:
        self.values.append(float(self.function(outputs, label)))

    def value(self) -> float:
        return float(np.mean(self.values)) if self.values else float("nan")


METRICS: dict[str, Callable[[], Metric]] = {
    "top1": lambda: TopK(1),
    "top5": lambda: TopK(5),
    "agreement": Agreement,
    "mean_iou": MeanIoU,
    "pq": PanopticQuality,
    "ap": MaskPrecision,
}


def open_metric(name: str) -> Metric:
    """A fresh metric of that name (a row of this module's table). Raises InputError."""
    if ":" in name:
        return Mean(import_function(name, "metric"))
    if name not in METRICS:
        raise InputError(
            "metric",
            got=repr(name),
            expected=", ".join([*METRICS, "module:function"]),
            fix="Correct --metric.",
        )
    return METRICS[name]()


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
