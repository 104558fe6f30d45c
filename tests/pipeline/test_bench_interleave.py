"""The timing core: who runs when, and what is reported."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.pipeline.interleave import Times, interleave
from hypothesis import given
from hypothesis import strategies as st

IMAGES = [np.full((1, 1, 2, 2), n, np.float32) for n in range(2)]


def test_contenders_take_turns_in_reversed_order():
    calls: list[str] = []
    contenders = {name: lambda image, name=name: calls.append(f"{name}{int(image.flat[0])}") for name in "AB"}
    interleave(contenders, IMAGES, rounds=2)
    warm, timed = calls[:2], calls[2:]
    assert warm == ["A0", "B0"]  # one of each shape
    assert timed == ["A0", "B0", "B1", "A1", "B0", "A0", "A1", "B1"]


def test_every_new_shape_is_warmed_up():
    shapes: list[tuple[int, ...]] = []
    images = [np.zeros((1, 1, n, n), np.float32) for n in (2, 3, 2)]
    interleave({"A": lambda image: shapes.append(image.shape)}, images, rounds=1)
    assert len(shapes) == 2 + 3 and set(shapes[:2]) == {(1, 1, 2, 2), (1, 1, 3, 3)}


def test_times_have_an_entry_per_image_and_round_and_ticks_count_them():
    ticks: list[None] = []
    times = interleave({"A": lambda image: image.sum()}, IMAGES, rounds=3, tick=lambda: ticks.append(None))
    assert times.wall["A"].shape == times.cpu["A"].shape == (2, 3)
    assert (times.wall["A"] > 0).all()
    assert len(ticks) == 6


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 99))
def test_the_ratio_is_that_of_the_means_and_lies_in_its_interval(images, rounds, seed):
    random = np.random.default_rng(seed)
    wall = {name: random.lognormal(0, 0.5, (images, rounds)) for name in "AB"}
    times = Times(wall, wall, wall)
    ratio = times.ratio("A", "B")
    assert ratio.value == pytest.approx(times.ms("A") / times.ms("B"))
    assert ratio.low <= ratio.value <= ratio.high


def test_one_interrupted_call_does_not_count():
    wall = {"A": np.array([[1.0, 1.0, 100.0], [3.0, 3.0, 3.0]])}
    assert Times(wall, wall, wall).ms("A") == pytest.approx(2.0)
