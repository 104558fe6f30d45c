"""A loaded model: what its callers see."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from foveate.runtime import NullConfig, load
from foveate.runtime.costs import DeviceCosts, SegmentCost
from foveate.runtime.errors import EngineError

MakeImage = Callable[..., np.ndarray]


@pytest.fixture
def batch(make_image: MakeImage) -> np.ndarray:
    """One image with a small blob, one fully active, one empty."""
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 10:18, 20:30] = masks[1] = True
    return np.concatenate([make_image(mask, seed) for seed, mask in enumerate(masks)])


def cheap_windows(fingerprint: dict[str, str]) -> DeviceCosts:
    """Costs by which a small mask runs selectively and a full one does not."""
    segments = {name: SegmentCost(0.01, 0.001) for name in "abcd"}
    return DeviceCosts(fingerprint, (1, 4, 64, 64), segments, {"region0": 1.0}, 0.3, guesses=segments)


def test_every_image_has_its_own_strategy(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1) as model:
        model.executor.costs = cheap_windows({})
        result = model(batch)
        expected = model.dense(batch)
    assert result.strategies == {"region0": ("rects", "dense", "rects")}
    assert result.timing["fallback"] > 0 and result.timing["compute"] > 0
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-6)


def test_a_result_is_a_mapping_with_decisions_and_timing(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1, strategy="rects") as model:
        result = model(batch)
    assert list(result) == ["y", "d"] and len(result) == 2
    assert result["y"].shape == (3, 8, 1, 1)
    with pytest.raises(KeyError, match="no output 'z'; outputs: y, d"):
        result["z"]
    decision = result.decisions["mask0"]
    assert decision.keep.shape == decision.logits.shape == decision.energy.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(decision.active_fraction, [4 * 5 / 1024, 1.0, 0.0])
    parts = sum(ms for phase, ms in result.timing.items() if phase != "total")
    assert 0 < parts <= result.timing["total"]


def test_dense_strategy_takes_the_whole_program(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1, strategy="dense") as model:
        result = model(batch)
        assert model.stats()["whole_program_requests"] == 1
    assert result.decisions["mask0"].active_fraction[1] == 1.0
    assert result.strategies == {"region0": ("dense",) * 3}


def test_a_program_that_hides_its_decisions_is_run_in_steps(
    make_bundle: Callable[..., Path], batch: np.ndarray
):
    with load(make_bundle(program_decisions=False), threads=1, strategy="dense") as model:
        result = model(batch)
        assert model.stats()["whole_program_requests"] == 0
        assert not model.dense(batch).decisions
    assert result.decisions["mask0"].active_fraction[1] == 1.0


def test_all_regions_demoted_take_the_whole_program(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1) as model:
        model.executor.costs = cheap_windows({})
        for _ in range(4):
            model.executor.guard.saw_selective("region0", 1.0, 2.0, 1.0)
        result = model(batch)
        assert result.strategies == {"region0": ("dense",) * 3} and "mask0" in result.decisions
        assert model.stats()["demotions"] == 1 and model.stats()["whole_program_requests"] == 1
        while model.executor.guard.all_demoted:
            model(batch)
        assert model(batch).strategies == {"region0": ("rects", "dense", "rects")}


def test_choices_reach_every_engine_and_its_reference(handmade: Path, make_image: MakeImage):
    image = make_image(np.eye(64, dtype=bool))
    with load(handmade, threads=1, strategy="rects", choices={"gain": 2.0}) as model:
        for gain in (2.0, 0.5, 2.0):
            model.set_choices({"gain": gain})
            assert model.choices["gain"] == gain
            np.testing.assert_allclose(model(image)["d"], model.dense(image)["d"], rtol=1e-5, atol=1e-6)
        assert model.stats()["references"]["built"] == 2
        model.set_choices({"mask0.threshold": 1.5})
        assert model(image).decisions["mask0"].active_fraction[0] == 0


def test_a_reference_above_the_limit_runs_dense(
    handmade: Path, batch: np.ndarray, caplog: pytest.LogCaptureFixture
):
    with load(handmade, threads=1, strategy="rects", cache_bytes=1000) as model:
        result = model(batch)
        assert result.strategies == {"region0": ("dense",) * 3}
        np.testing.assert_allclose(result["d"], model.dense(batch)["d"], rtol=1e-5, atol=1e-6)
        assert model.stats()["references"]["too_large"] == 1
    assert "Load with a larger cache_bytes" in caplog.text


def test_resolutions_are_bounded(handmade: Path):
    with load(handmade, threads=1, strategy="rects", cache_bytes=200_000) as model:
        for size in range(32, 96, 8):
            model(np.zeros((1, 4, size, size), np.float32))
        references = model.stats()["references"]
    assert references["evicted"] > 0 and references["bytes"] <= 200_000


def test_concurrent_callers(handmade: Path, make_image: MakeImage):
    masks = np.random.default_rng(0).random((12, 64, 64)) < np.linspace(0, 0.3, 12)[:, None, None]
    images = [make_image(mask, seed) for seed, mask in enumerate(masks)]
    with load(handmade, threads=1, strategy="rects") as model:
        expected = [model.dense(image)["d"] for image in images]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n: (n % 12, model(images[n % 12])["d"]), range(96)))
        for number, value in found:
            np.testing.assert_allclose(value, expected[number], rtol=1e-5, atol=1e-6)
        stats = model.stats()
    assert stats["requests"] == 96 and stats["references"]["built"] == 1


def test_stats(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1, strategy="rects") as model:
        for _ in range(70):
            model(batch)
        with pytest.raises(Exception, match="batch axis"):
            model(batch[0])
        stats = model.stats()
    assert (stats["requests"], stats["images"], stats["errors"], stats["fallbacks"]) == (70, 210, 1, 0)
    assert stats["regions"] == {"region0": {"spans": 0, "rects": 210, "windows": 0, "dense": 0}}
    assert stats["active_fraction"]["mask0"] == pytest.approx((1 + 20 / 1024) / 3)
    assert stats["latency_ms"]["p90"] > 0 and stats["latency_ms"]["p99"] is None, "n too small"
    assert stats["device"]["threads"] == "1" and stats["strategy"] == "rects"


def test_warmup_computes_references(handmade: Path):
    with load(handmade, threads=1, strategy="rects") as model:
        model.warmup([(1, 4, 64, 64), (2, 4, 40, 48)])
        model.warmup((1, 4, 64, 64))
        model.warmup()
        assert model.stats()["references"]["built"] == 2 and model.stats()["requests"] == 0
        model(np.zeros((3, 4, 40, 48), np.float32))
        assert model.stats()["references"]["built"] == 2


def test_a_closed_model_says_so(handmade: Path):
    model = load(handmade, threads=1)
    model.close()
    model.close()
    with pytest.raises(EngineError, match=r"a call after close\(\)"):
        model(np.zeros((1, 4, 64, 64), np.float32))


def test_a_pickled_model_opens_its_bundle_again(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1, strategy="rects") as model:
        model.set_choices({"gain": 3.0})
        with pickle.loads(pickle.dumps(model)) as copy:
            assert copy.choices["gain"] == 3.0
            np.testing.assert_array_equal(copy(batch)["d"], model(batch)["d"])


def test_a_dict_of_inputs(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1, strategy="rects") as model:
        np.testing.assert_array_equal(model({"images": batch})["y"], model(batch)["y"])


def test_torch_in_torch_out(handmade: Path, batch: np.ndarray):
    torch = pytest.importorskip("torch")
    with load(handmade, threads=1, strategy="rects") as model:
        result, expected = model(torch.from_numpy(batch)), model(batch)
    assert isinstance(result["y"], torch.Tensor) and isinstance(result.decisions["mask0"].keep, torch.Tensor)
    np.testing.assert_array_equal(result["d"].numpy(), expected["d"])


def test_strided_input(handmade: Path, batch: np.ndarray):
    with load(handmade, threads=1, strategy="rects") as model:
        flipped = batch[:, :, :, ::-1]
        np.testing.assert_array_equal(model(flipped)["d"], model(np.ascontiguousarray(flipped))["d"])


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_dispatch_without_a_device(handmade: Path, batch: np.ndarray, fill: float):
    """The null backend runs every path but the arithmetic: nothing active with fill 0, everything with 1."""
    with load(handmade, backend=NullConfig(fill=fill), strategy="rects") as model:
        result = model(batch)
        assert model.stats()["device"]["backend"] == "null"
    assert result["y"].shape == (3, 8, 1, 1) and result["d"].shape == (3, 8, 32, 32)
    assert result.decisions["mask0"].active_fraction.tolist() == [fill] * 3
    assert (result["d"] == fill).all()
