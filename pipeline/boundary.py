"""F of boundaries: how well the outlines of an answer's classes lie on those of its label.

BF of a class in an image (Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013):
precision is the share of the answer's boundary within a distance of the label's, recall that of the label's boundary
within it of the answer's, and F = 2 · precision · recall ÷ (precision + recall).
"""

from __future__ import annotations

import numpy as np

NEAR = 0.0075  # of the image's diagonal


def boundary_scores(wanted: np.ndarray, found: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Of one image float64 [K, 2]: F of each class, and 1 where label or answer has a boundary of it (else 0 and 0).
    `wanted`, `found`: classes int [H, W]. Pixels that are not `counted`, bool [H, W], have and make none."""
    classes = np.union1d(wanted[counted], found[counted])
    scores = np.zeros((int(classes.max(initial=-1)) + 1, 2))
    distance = NEAR * float(np.hypot(*wanted.shape))
    for number in classes:
        theirs, ours = (boundary(labels == number, counted) for labels in (wanted, found))
        if theirs.any() or ours.any():
            scores[number] = _f(ours, theirs, distance), 1
    return scores


def boundary(inside: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """bool [H, W]: counted pixels inside, next to (above, below, left or right of) a counted one that is outside."""
    outside = np.pad(counted & ~inside, 1)
    beside = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    return counted & inside & beside


def _f(ours: np.ndarray, theirs: np.ndarray, distance: float) -> float:
    precision = _share(ours & _grown(theirs, distance), ours)
    recall = _share(theirs & _grown(ours, distance), theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return np.count_nonzero(part) / max(np.count_nonzero(whole), 1)


def _grown(pixels: np.ndarray, distance: float) -> np.ndarray:
    """bool [H, W]: within this distance of one of the pixels. Row by row of the disk: those of one row are a run, which
    differences of a running sum find."""
    height, width = pixels.shape
    reach = int(distance)
    total = np.pad(pixels.cumsum(axis=1), ((0, 0), (1, 0)))  # [H, W + 1]: how many there are to the left
    columns, near = np.arange(width), np.zeros_like(pixels)
    for down in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        half = int(np.sqrt(distance**2 - down**2))
        low, high = np.maximum(columns - half, 0), np.minimum(columns + half + 1, width)
        row = total[:, high] > total[:, low]
        near[max(down, 0) : height + min(down, 0)] |= row[max(-down, 0) : height - max(down, 0)]
    return near
