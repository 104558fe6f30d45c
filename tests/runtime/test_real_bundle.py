"""A bundle that the pipeline built runs as the program does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from foveate.runtime import load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(24, 80), width=st.integers(24, 80), seed=st.integers(0, 5))
def test_selective_is_dense_at_any_size(tiny_bundle: Path, height: int, width: int, seed: int):
    image = np.random.default_rng(seed).normal(size=(1, 3, height, width)).astype(np.float32)
    with load(tiny_bundle, threads=1, strategy="rects", verify=False) as model:
        found, expected = model(image), model.dense(image)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-30)


@pytest.mark.parametrize("strategy", ["auto", "dense", "rects"])
def test_decisions_come_with_every_strategy(tiny_bundle: Path, strategy: str):
    image = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    with load(tiny_bundle, threads=1, strategy=strategy) as model:
        decision = model(image).decisions["mask0"]
    assert decision.keep.shape == (2, 1, 32, 48)
    assert decision.logits.shape == (2, 1, 16, 24)
    assert decision.energy is None  # the program does not put it out
    assert decision.active_fraction.shape == (2,)
    assert 0 < decision.active_fraction[0] < 1


def test_a_threshold_moves_the_mask(tiny_bundle: Path):
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    with load(tiny_bundle, threads=1, strategy="rects") as model:
        before = model(image).decisions["mask0"].active_fraction[0]
        model.set_choices({"mask0.threshold": 0.99})
        result, dense = model(image), model.dense(image)
    assert result.decisions["mask0"].active_fraction[0] < before
    np.testing.assert_allclose(result["logits"], dense["logits"], rtol=1e-4, atol=1e-5)


def test_images_that_keep_everything_end_up_in_one_engine(tiny_bundle: Path):
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    with load(tiny_bundle, threads=1, choices={"mask0.threshold": 0.0}) as model:
        results = [model(image) for _ in range(12)]
        assert model.stats()["whole_program_requests"] >= 3
    for result in results:
        assert result.decisions["mask0"].keep.all()
        np.testing.assert_allclose(result["logits"], results[0]["logits"], rtol=1e-5, atol=1e-6)
