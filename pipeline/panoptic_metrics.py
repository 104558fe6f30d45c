"""Metrics of networks that answer with queries (runtime.segmentation): panoptic quality, and the masks' average
precision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..runtime.errors import InputError, MissingExtraError
from ..runtime.segmentation import CLASSES, instance, panoptic
from .panoptic import INSTANCES, Panoptic

Outputs = Mapping[str, np.ndarray]


def count_panoptic(outputs: Outputs, label: Any, reference: Outputs) -> np.ndarray:
    """PQ (Kirillov et al., arXiv 1801.00868): of each class the IoUs of the segments that match (above ½), summed, ÷
    (matches + half of what is unmatched on either side); then the mean over the classes that occur. Gives both of one
    image, [classes, 2].

    Counted here, as torchmetrics' PanopticQuality takes a second for an image of 384 × 384, and forgives an answer what
    it leaves without a segment; the tests compare with it."""
    truth, classes = _truth(label, outputs, "pq")
    stuff = set(range(classes)) - truth.things
    sizes = [truth.ids.shape]
    (answer,) = panoptic(outputs, target_sizes=sizes, label_ids_to_fuse=stuff, distinct_ids=True)
    found = {info["id"]: info["label_id"] for info in answer["segments_info"]}
    return matched(answer["segmentation"], found, truth, classes)


def matched(ids: np.ndarray, found: Mapping[int, int], truth: Panoptic, classes: int) -> np.ndarray:
    """Of one image's segments float64 [classes, 2]: the sum of the matches' IoUs, and their number + half of the
    unmatched. `ids` int [H, W]; `found`: the class of each id, others are none."""
    ours, ours_at = np.unique(ids, return_inverse=True)
    theirs, theirs_at = np.unique(truth.merged(), return_inverse=True)
    pixels = np.bincount(ours_at.ravel() * len(theirs) + theirs_at.ravel(), minlength=len(ours) * len(theirs))
    both = pixels.reshape(len(ours), len(theirs))
    our_class = np.array([found.get(int(i), -1) for i in ours])
    unknown, crowd, their_class = theirs < 0, truth.is_crowd(theirs), theirs // INSTANCES
    area, void = both.sum(axis=1, keepdims=True), both[:, unknown].sum(axis=1, keepdims=True)
    either = area - void + both.sum(axis=0) - both
    same = our_class[:, None] == their_class
    iou = np.where(same & ~unknown & ~crowd, both / np.maximum(either, 1), 0)
    match = iou > 0.5  # at most one for a segment, as segments do not overlap
    forgiven = void[:, 0] + (both * (same & crowd)).sum(axis=1)
    missed = ~unknown & ~crowd & ~match.any(axis=0)
    wrong = (our_class >= 0) & ~match.any(axis=1) & (forgiven <= area[:, 0] / 2)
    counts = np.zeros((classes, 2))
    hits, places = np.nonzero(match)
    np.add.at(counts, their_class[places], np.stack([iou[hits, places], np.ones(len(hits))], axis=1))
    np.add.at(counts[:, 1], np.concatenate([their_class[missed], our_class[wrong]]), 0.5)
    return counts


class MaskPrecision:
    """AP of masks by pycocotools: at overlaps of 50 to 95 %, the mean over the things that occur."""

    def __init__(self):
        self._images: list[dict[str, Any]] = []
        self._wanted: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._things: set[int] = set()

    def update(self, outputs: Outputs, label: Any, reference: Outputs) -> None:
        truth, _ = _truth(label, outputs, "ap")
        number = len(self._images)
        height, width = truth.ids.shape
        self._images.append({"id": number, "height": height, "width": width})
        self._things |= truth.things
        for identity in np.unique(truth.ids):
            if identity // INSTANCES in truth.things:
                mask, crowd = truth.ids == identity, truth.is_crowd(identity)
                _add(self._wanted, number, int(identity // INSTANCES), mask, iscrowd=int(crowd))
        (answer,) = instance(outputs, threshold=0.0, target_sizes=[(height, width)], return_binary_maps=True)
        for info, mask in zip(answer["segments_info"], answer["segmentation"], strict=False):
            if info["label_id"] in truth.things:
                _add(self._found, number, info["label_id"], mask, iscrowd=0, score=info["score"])

    def value(self) -> float:
        if not self._wanted:
            return float("nan")
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            judged = COCOeval(self._coco(self._wanted), self._coco(self._found), "segm")
            judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], ["all"]
            judged.evaluate()
            judged.accumulate()
        precision = judged.eval["precision"][
            ..., -1
        ]  # with as many objects an image as the field counts, 100
        return float(precision[precision >= 0].mean()) if (precision >= 0).any() else float("nan")

    def _coco(self, annotations: list[dict[str, Any]]) -> Any:
        from pycocotools.coco import COCO

        found = COCO()
        categories = [{"id": number} for number in sorted(self._things)]
        copies = [dict(annotation) for annotation in annotations]  # COCOeval writes into them
        dataset: Any = {"images": self._images, "categories": categories, "annotations": copies}
        found.dataset = dataset
        found.createIndex()
        return found


def _add(annotations: list[dict[str, Any]], image: int, category: int, mask: np.ndarray, **more: Any) -> None:
    try:
        from pycocotools.mask import encode
    except ImportError as error:
        raise MissingExtraError("pycocotools", "metrics", "average precision of masks") from error
    runs = encode(np.asfortranarray(mask, np.uint8))
    facts = {"image_id": image, "category_id": category, "segmentation": runs, "area": int(mask.sum())}
    annotations.append({"id": len(annotations) + 1, **facts, **more})


def _truth(label: Any, outputs: Outputs, metric: str) -> tuple[Panoptic, int]:
    """The label, and how many classes the network has."""
    if not isinstance(label, Panoptic):
        raise InputError(
            f"metric {metric}",
            got="no label" if label is None else f"a label of type {type(label).__name__}",
            expected="panoptic labels",
            fix="See docs/data.md#panoptic-labels, or choose another --metric.",
        )
    if CLASSES not in outputs:
        raise InputError(
            f"metric {metric}",
            got=f"outputs {', '.join(outputs)}",
            expected=f"{CLASSES} and masks_queries_logits among them",
            fix="Name the program's outputs so, or choose another --metric.",
        )
    classes = outputs[CLASSES].shape[-1] - 1
    largest = max(int(label.categories.max()), *label.things, -1)
    if largest >= classes:
        raise InputError(
            f"metric {metric}",
            got=f"category {largest}",
            expected=f"0 … {classes - 1}, as the program has {classes} classes",
            fix="Check the order and number of the categories in --data.",
        )
    return label, classes
