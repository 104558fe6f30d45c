"""A bundle that the pipeline built runs as the program does."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foveate.runtime import load
from foveate.runtime.errors import BundleError, EngineError, InputError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(24, 80),
    width=st.integers(24, 80),
    seed=st.integers(0, 5),
    batch=st.integers(1, 3),
    strategy=st.sampled_from(["rects", "spans"]),
)
def test_selective_is_dense_at_any_size(
    tiny_bundle: Path, height: int, width: int, seed: int, batch: int, strategy: str
):
    image = np.random.default_rng(seed).normal(size=(batch, 3, height, width)).astype(np.float32)
    with load(tiny_bundle, threads=1, strategy=strategy, verify=False) as model:
        found, expected = model(image), model.dense(image)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-30)


@pytest.mark.parametrize("strategy", ["auto", "dense", "rects", "spans"])
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


def test_images_that_always_fall_back_end_up_in_one_engine(tiny_bundle: Path):
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    with load(tiny_bundle, threads=1, choices={"mask0.threshold": 0.0}) as model:
        costs = model.measure()
        model.executor.costs = replace(
            costs, regions=dict.fromkeys(costs.regions, 1e-6)
        )  # nothing beats that
        results = [model(image) for _ in range(12)]
        assert model.stats()["whole_program_requests"] >= 3
    for result in results:
        assert result.decisions["mask0"].keep.all()
        np.testing.assert_allclose(result["logits"], results[0]["logits"], rtol=1e-5, atol=1e-6)


def test_native_kernels_need_a_region_that_they_run(handmade: Path):
    with (
        pytest.raises(InputError, match="no native kernels for this bundle"),
        load(handmade, strategy="spans") as model,
    ):
        model.stats()


def test_spans_leave_nothing_behind(tiny_bundle: Path):
    images = [np.random.default_rng(i).normal(size=(1, 3, 64, 96)).astype(np.float32) for i in range(3)]
    with load(tiny_bundle, threads=2, strategy="spans") as model:
        first = [model(image) for image in images]
        again = [model(image) for image in reversed(images)][::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["features"], b["features"])


def test_concurrent_callers_each_have_a_state(tiny_bundle: Path):
    images = [np.random.default_rng(i).normal(size=(1, 3, 64, 96)).astype(np.float32) for i in range(6)]
    with load(tiny_bundle, threads=2, strategy="spans") as model, ThreadPoolExecutor(4) as callers:
        expected = [model.dense(image)["logits"] for image in images]
        for _ in range(5):
            for found, wanted in zip(callers.map(model, images), expected, strict=True):
                np.testing.assert_allclose(found["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_without_the_library_windows_do_it(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("foveate.runtime.spans.library", lambda: None)
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    with load(tiny_bundle, threads=1) as model:
        model.measure()
        assert not model.executor.engines.spans and model.executor.costs.fingerprint["native"] == "none"
        assert model(image).strategies["region0"][0] in ("rects", "dense")


def test_a_damaged_span_plan_is_named(tiny_bundle: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    plan = copy / "programs/region0.json"
    text = plan.read_text()
    plan.write_text(re.sub(r'"schema_version": \d+', '"schema_version": 0', text))
    with pytest.raises(BundleError, match="sha256"):
        load(copy)
    with pytest.raises(BundleError, match="another schema version"), load(copy, verify=False) as model:
        model.stats()
    plan.write_text(text.replace('"offset": ', '"offset": 9', 1)[: len(text)].ljust(len(text)))
    with pytest.raises((BundleError, EngineError), match="programs"), load(copy, verify=False) as model:
        model.stats()
