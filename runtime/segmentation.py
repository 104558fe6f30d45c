"""What the outputs of a Mask2Former-style network mean: semantic, instance and panoptic segmentation, numpy alone.

The network answers with queries. `class_queries_logits` [B, Q, C + 1] scores for each query the C classes and, last,
"no object"; `masks_queries_logits` [B, Q, h, w] is its mask. Answers are those of transformers'
Mask2FormerImageProcessor (`post_process_semantic_segmentation` and its two sisters), names and keys included, but for
the order of float sums: a pixel, or a segment at a threshold, that is decided by the last bits may differ.

As there, masks are first scaled to 384 × 384, whatever the image's size: without `target_sizes` that is the answer's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InputError
from .manifest import Pair
from .resampling import bilinear, nearest

CLASSES, MASKS = "class_queries_logits", "masks_queries_logits"
WORKING: Pair = (384, 384)

Segmentation = dict[str, Any]  # one image's answer
Outputs = Mapping[str, Any]  # a Result, or arrays by name


def semantic(
    outputs: Outputs,
    *,
    target_sizes: Sequence[Pair] | None = None,
    return_segmentation_scores: bool = False,
) -> list[Any]:
    """The class of each pixel: an int64 [H, W] for each image.

    target_sizes: (H, W) of each image's answer. return_segmentation_scores: dicts instead, of `segmentation`, that map,
    and `segmentation_scores`, float32 [C, H, W]. Raises InputError for outputs that are missing, of other shapes or not
    finite, and for sizes that do not fit."""
    answers: list[Any] = []
    for classes, masks, size in _images(outputs, target_sizes):
        shares = _softmax(classes)[:, :-1]  # [Q, C]
        inside = np.stack([_sigmoid(bilinear(mask, WORKING)) for mask in masks])  # [Q, 384, 384]
        scores = (shares.T @ inside.reshape(len(inside), -1)).reshape(-1, *WORKING)  # [C, 384, 384]
        if return_segmentation_scores:
            scaled = np.stack([bilinear(plane, size) for plane in scores])
            answers.append({"segmentation": _first_largest(scaled, size), "segmentation_scores": scaled})
        else:
            answers.append(_first_largest((bilinear(plane, size) for plane in scores), size))
    return answers


def instance(
    outputs: Outputs,
    *,
    threshold: float = 0.5,
    target_sizes: Sequence[Pair] | None = None,
    return_coco_annotation: bool = False,
    return_binary_maps: bool = False,
    labels: Sequence[str] = (),
) -> list[Segmentation]:
    """The objects of each image, the Q best pairs of query and class: a dict of

    - `segmentation`: int32 [H, W], an object's id, −1 where there is none; where objects overlap, the last one has the
      pixel. return_binary_maps: bool [objects, H, W], which may overlap (without objects the map of −1).
      return_coco_annotation: run lengths (start, from 1, and length, by rows) of each id of the map, −1 among them.
    - `segments_info`: of each object `id` from 0 in falling order of class scores, `label_id`, `was_fused` (False) and
      `score`; with `labels`, the names of the classes, also `label`.

    threshold: of the score, the class's times the mean of the mask. target_sizes, errors: as `semantic`. (transformers
    takes two thresholds more here and reads neither; of many objects with less than 64 classes it leaves their order to
    the library's partial sort.)"""
    if return_coco_annotation and return_binary_maps:
        raise InputError(
            "instance segmentation",
            got="return_coco_annotation and return_binary_maps",
            expected="one of the two",
            fix="Drop the other.",
        )
    answers = []
    for classes, masks, size in _images(outputs, target_sizes, labels):
        segmentation, info, maps = np.full(size, -1, np.int32), [], []
        for label, score, mask in _objects(_softmax(classes)[:, :-1], masks, threshold, size):
            segmentation[mask] = len(info)
            info.append(_info(len(info), label, False, score, labels))
            maps.append(mask)
        answer: Any = segmentation
        if return_coco_annotation:
            answer = [_run_lengths(segmentation == number) for number in np.unique(segmentation)]
        elif return_binary_maps and maps:
            answer = np.stack(maps)
        answers.append({"segmentation": answer, "segments_info": info})
    return answers


def panoptic(
    outputs: Outputs,
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    label_ids_to_fuse: Collection[int] = (),
    target_sizes: Sequence[Pair] | None = None,
    distinct_ids: bool = False,
    labels: Sequence[str] = (),
) -> list[Segmentation]:
    """One segment for each pixel, of things and stuff: a dict for each image of

    - `segmentation`: int32 [H, W], a segment's id from 1, 0 where there is none; −1 everywhere where no query is above
      the threshold.
    - `segments_info`: of each segment `id`, `label_id`, `was_fused` and `score`; with `labels`, the names of the
      classes, also `label`. A segment that was fused has an entry for each of its parts.

    threshold: of a query's class score. mask_threshold: from which score times mask a pixel counts as the query's own.
    overlap_mask_area_threshold: a query of whose own area no larger share is left to it is dropped.
    label_ids_to_fuse: classes with one segment an image (stuff). distinct_ids: transformers counts on from a fused
    segment's id, so that a later segment may get an id which is taken; True gives each its own.
    target_sizes, errors: as `semantic`."""
    answers = []
    for classes, masks, size in _images(outputs, target_sizes, labels):
        shares = _softmax(classes)
        best, scores = shares.argmax(axis=1), shares.max(axis=1)
        kept = np.flatnonzero((best != shares.shape[1] - 1) & (scores > np.float32(threshold)))
        if not kept.size:
            answers.append({"segmentation": np.full(size, -1, np.int32), "segments_info": []})
            continue
        owner, valid = _owners(masks[kept], scores[kept], size, mask_threshold, overlap_mask_area_threshold)
        ids, info, last = np.zeros(len(kept), np.int32), [], 0
        fused: dict[int, int] = {}
        for place in np.flatnonzero(valid):
            query = kept[place]
            label = int(best[query])
            number = fused.get(label, last + 1)
            if label in label_ids_to_fuse:
                fused[label] = number
            ids[place], last = number, max(last, number) if distinct_ids else number
            info.append(_info(number, label, label in fused, float(scores[query]), labels))
        answers.append({"segmentation": ids[owner], "segments_info": info})
    return answers


def _owners(
    masks: np.ndarray, scores: np.ndarray, size: Pair, mask_threshold: float, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which mask each pixel belongs to, int64 [H, W], and which masks keep more than the share `least` of their area,
    bool [masks]. One mask at a time: all of them at full size would not fit a cache."""
    own = []

    def weighted() -> Iterator[np.ndarray]:
        for mask, score in zip(masks, scores, strict=True):
            plane = bilinear(_sigmoid(bilinear(mask, WORKING)), size)
            plane *= score
            own.append(np.count_nonzero(plane >= np.float32(mask_threshold)))
            yield plane

    owner = _first_largest(weighted(), size)
    area, whole = np.bincount(owner.ravel(), minlength=len(masks)), np.array(own)
    share = area.astype(np.float32) / np.maximum(whole, 1).astype(np.float32)
    return owner, (area > 0) & (whole > 0) & (share.astype(np.float64) > least)


def _objects(
    shares: np.ndarray, masks: np.ndarray, threshold: float, size: Pair
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Class, score and mask, bool [H, W], of the best pairs of query and class. A mask is read only where the class's
    score, which bounds that of the pair, is not below the threshold already."""
    read: dict[int, tuple[np.float32, np.ndarray]] = {}
    for pair in np.argsort(-shares, axis=None, kind="stable")[: len(shares)]:
        query, label = divmod(int(pair), shares.shape[1])
        if shares[query, label] < np.float64(threshold):
            return
        if query not in read:
            logits = bilinear(masks[query], WORKING)
            inside = logits > 0
            area = np.float32(np.count_nonzero(inside)) + np.float32(1e-6)
            read[query] = _sigmoid(logits)[inside].sum() / area, nearest(inside, size)
        quality, mask = read[query]
        score = float(shares[query, label] * quality)
        if score >= threshold and mask.any():
            yield label, score, mask


def _first_largest(planes: Iterable[np.ndarray], size: Pair) -> np.ndarray:
    """int64 [H, W]: which of the planes is the largest there, the first of equal ones."""
    largest, found = np.full(size, -np.inf, np.float32), np.zeros(size, np.int64)
    for number, plane in enumerate(planes):
        np.copyto(found, number, where=plane > largest)
        np.maximum(largest, plane, out=largest)
    return found


def _info(number: int, label: int, fused: bool, score: float, labels: Sequence[str]) -> dict[str, Any]:
    info: dict[str, Any] = {"id": number, "label_id": label, "was_fused": fused, "score": round(score, 6)}
    return {**info, "label": labels[label]} if labels else info


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Start, from 1, and length of each run of a bool [H, W], by rows."""
    padded = np.concatenate([[False], mask.ravel(), [False]])
    ends = np.flatnonzero(padded[1:] != padded[:-1]) + 1
    ends[1::2] -= ends[::2]
    return ends.tolist()


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    shares = -logits
    with np.errstate(over="ignore"):  # exp(−z) of z below −88: 1 / ∞ is the 0 that is meant
        np.exp(shares, out=shares)
    shares += 1
    return np.divide(1, shares, out=shares)


def _images(
    outputs: Outputs, target_sizes: Sequence[Pair] | None, labels: Sequence[str] = ()
) -> Iterator[tuple[np.ndarray, np.ndarray, Pair]]:
    """Of each image its class logits [Q, C + 1], its mask logits [Q, h, w], both float32, and the answer's size."""
    classes, masks = _checked(outputs)
    if labels and len(labels) != classes.shape[2] - 1:
        raise InputError(
            "labels",
            got=f"{len(labels)} names",
            expected=f"{classes.shape[2] - 1}, as {CLASSES} has so many classes (and no object)",
            fix="Pass a name for each class, in the network's order.",
        )
    sizes = [WORKING] * len(classes) if target_sizes is None else _sizes(target_sizes, len(classes))
    yield from zip(classes, masks, sizes, strict=True)


def _checked(outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
    missing = [name for name in (CLASSES, MASKS) if name not in outputs]
    if missing:
        raise InputError(
            "outputs to segment",
            got=f"{', '.join(outputs) or 'none'}",
            expected=f"{CLASSES} [B, Q, C + 1] and {MASKS} [B, Q, h, w] among them",
            fix="Name the program's outputs so, or pass a dict with these names.",
        )
    classes, masks = np.asarray(outputs[CLASSES]), np.asarray(outputs[MASKS])
    floats = classes.dtype.kind == masks.dtype.kind == "f"
    fit = classes.ndim == 3 and masks.ndim == 4 and classes.shape[:2] == masks.shape[:2]
    if not (floats and fit and classes.shape[2] > 1 and 0 not in masks.shape[2:]):
        raise InputError(
            "outputs to segment",
            got=f"{CLASSES} {classes.dtype} {list(classes.shape)}, {MASKS} {masks.dtype} {list(masks.shape)}",
            expected=f"floats {CLASSES} [B, Q, C + 1] and {MASKS} [B, Q, h, w] of equal B and Q",
            fix="Pass the network's outputs as they are.",
        )
    for name, array in ((CLASSES, classes), (MASKS, masks)):
        for index in np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))):
            raise InputError(
                f"{name} of image {index}",
                got=f"{np.count_nonzero(~np.isfinite(array[index]))} values that are NaN or infinite",
                expected="finite logits",
                fix="Check the image and its preprocessing.",
            )
    return classes.astype(np.float32, copy=False), masks.astype(np.float32, copy=False)


def _sizes(target_sizes: Sequence[Pair], images: int) -> list[Pair]:
    sizes = np.asarray(target_sizes)
    if sizes.shape != (images, 2) or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        raise InputError(
            "target_sizes",
            got=f"{sizes.tolist()} for {images} images",
            expected="a pair (height, width) of whole numbers ≥ 1 for each image",
            fix="Pass the size of each image, in the batch's order.",
        )
    return [(int(height), int(width)) for height, width in sizes]
