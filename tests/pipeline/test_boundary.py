"""F of boundaries against the formula, pixel pair by pixel pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from foveate.pipeline import boundary
from foveate.pipeline.metrics import open_metric, value_of
from hypothesis import given
from hypothesis import strategies as st


def brute_force(
    wanted: np.ndarray, found: np.ndarray, counted: np.ndarray, distance: float
) -> dict[int, float]:
    """F by class."""
    height, width = wanted.shape

    def outline(labels: np.ndarray, number: int) -> list[tuple[int, int]]:
        pixels = []
        for y in range(height):
            for x in range(width):
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                inside = [(a, b) for a, b in around if 0 <= a < height and 0 <= b < width and counted[a, b]]
                if counted[y, x] and labels[y, x] == number and any(labels[p] != number for p in inside):
                    pixels.append((y, x))
        return pixels

    def share(these: list, those: list) -> float:
        near = [min((math.dist(p, q) for q in those), default=math.inf) <= distance for p in these]
        return sum(near) / len(near) if near else 0.0

    scores = {}
    for number in range(4):
        ours, theirs = outline(found, number), outline(wanted, number)
        precision, recall = share(ours, theirs), share(theirs, ours)
        if ours or theirs:
            scores[number] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores


@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.01, 0.08, 0.2, 0.5, 3.0]),
)
def test_it_equals_the_formula(seed: int, height: int, width: int, near: float):
    random = np.random.default_rng(seed)
    wanted, found = (random.integers(0, 4, (-(-height // 3), -(-width // 3))) for _ in range(2))
    wanted, found = (np.kron(map, np.ones((3, 3), int))[:height, :width] for map in (wanted, found))
    counted = random.random((height, width)) < 0.9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "NEAR", near)
        scores = boundary.boundary_scores(wanted, found, counted)
    expected = brute_force(wanted, found, counted, near * math.hypot(height, width))
    assert {k: f for k, (f, some) in enumerate(scores) if some} == pytest.approx(expected)
    assert not scores[[k for k in range(len(scores)) if k not in expected]].any()


def test_as_a_metric_it_is_the_mean_over_images_and_then_over_classes():
    """A square that is found two pixels aside, where one is near, and one that is found exactly."""
    wanted, shifted = np.zeros((2, 100, 100), np.int64)
    wanted[20:60, 20:60], shifted[20:60, 24:64] = 1, 1
    metric = open_metric("boundary_f")
    each = []
    for answer in (shifted, wanted):
        outputs = {"y": np.eye(2, dtype=np.float32)[answer].transpose(2, 0, 1)[None]}
        metric.update(outputs, wanted, outputs)
        each.append(boundary.boundary_scores(wanted, answer, np.ones((100, 100), bool)))
    first, second = (counts[:, 0] for counts in each)
    assert (second == 1).all() and 0.4 < first[1] < 0.6
    assert metric.value() == pytest.approx((first + second).mean() / 2)
    assert metric.value() == pytest.approx(float(value_of(np.sum(each, axis=0))))
