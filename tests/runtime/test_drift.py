"""Depths that images take against those of calibration."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from foveate.pipeline.build import build
from foveate.runtime import load
from foveate.runtime.drift import WINDOW, Depths, compare
from hypothesis import given
from hypothesis import strategies as st

from ..early_exits import EXITS, exit_program

EXPECTED = {2: 300, 3: 100, 4: 100}


def draw(shares: list[float], count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).choice([2, 3, 4], count, p=shares).tolist()


def test_samples_of_one_distribution_seldom_differ():
    found = [compare(Counter(draw([0.6, 0.2, 0.2], WINDOW, seed)), EXPECTED) for seed in range(300)]
    assert sum(each.drifted for each in found) <= 3


def test_samples_of_another_distribution_do():
    """The fewer images calibration saw, the more has to change."""
    seen = Counter(draw([0.3, 0.2, 0.5], WINDOW))
    assert compare(seen, EXPECTED).drifted
    assert not compare(seen, {depth: n // 25 for depth, n in EXPECTED.items()}).drifted


@given(*[st.dictionaries(st.integers(1, 9), st.integers(1, 99), min_size=1)] * 2)
def test_the_distance_is_total_variation(seen: dict[int, int], expected: dict[int, int]):
    found = compare(seen, expected)
    a, b = ({k: n / sum(d.values()) for k, n in d.items()} for d in (seen, expected))
    overlap = sum(min(a.get(k, 0), b.get(k, 0)) for k in {*a, *b})
    assert found.distance == pytest.approx(1 - overlap) and found.limit > 0


def test_a_warning_where_drift_begins(caplog: pytest.LogCaptureFixture):
    depths = Depths(EXPECTED)
    with caplog.at_level(logging.WARNING, "foveate"):
        depths.add(draw([0.6, 0.2, 0.2], 2 * WINDOW))
        assert caplog.records == []
        depths.add([4] * (WINDOW - 1))
        assert caplog.records == []
        depths.add([4])
        assert "100% took 4 layers, of those of calibration 60% took 2 layers" in caplog.text
        depths.add([4] * WINDOW)  # goes on: no news
        assert len(caplog.records) == 1
        depths.add(draw([0.6, 0.2, 0.2], WINDOW))
        depths.add([4] * WINDOW)
        assert len(caplog.records) == 2


def test_without_calibration_depths_are_counted_only(caplog: pytest.LogCaptureFixture):
    depths = Depths({})
    depths.add([2, 2, 4, 4] * WINDOW)
    assert depths.summary() == {
        "images": 4 * WINDOW,
        "seen": {2: 0.5, 4: 0.5},
        "expected": None,
        "drift": None,
    }
    assert caplog.records == []


def test_a_model_tells_its_depths(tmp_path: Path):
    bundle = build(
        exit_program(tmp_path / "exits.onnx"),
        tmp_path / "bundle",
        sample=(2, 3, 32, 48),
        depths={str(exit): 100 for exit in EXITS},
    )
    image = np.zeros((1, 3, 32, 48), np.float32)
    with load(bundle, threads=1) as model:
        model(image)
        model.submit(image).result(30)
        found = model.stats()["depths"]
        assert found["images"] == 2 and sum(found["seen"].values()) == 1
        assert found["expected"] == {exit: pytest.approx(1 / 3) for exit in EXITS}
        json.dumps(found)
        model.set_choices({"gate0.offset": [0.0, 0.0, 1e6]})  # then calibration says nothing of depths
        model(np.repeat(image, WINDOW, axis=0))
        found = model.stats()["depths"]
        assert found["images"] == WINDOW and found["seen"] == {EXITS[-1]: 1.0} and found["expected"] is None
        model.set_choices({"gate0.offset": [0.0, 0.0, 0.0]})
        model(np.repeat(image, WINDOW, axis=0))
        assert model.stats()["depths"]["drift"]["drifted"]
