"""Bundles on a device answer what the dense program does, without a wait for each layer, and leave nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foveate.runtime import Model, load
from foveate.runtime.costs import DeviceCosts, SegmentCost
from foveate.runtime.device import regions, tiles
from foveate.runtime.device.host import HostArray, HostDevice
from foveate.runtime.errors import DecisionError, EngineError, InputError
from hypothesis import given, settings
from hypothesis import strategies as st

MakeImage = Callable[..., np.ndarray]


def costs_of(fixed_ms: float, ms_per_cell: float, dense_ms: float = 1e3) -> DeviceCosts:
    segments = {name: SegmentCost(fixed_ms, ms_per_cell) for name in "abcd"}
    return DeviceCosts({}, (1, 4, 64, 64), segments, {"region0": dense_ms}, 0.3, guesses=segments)


@pytest.fixture(scope="module")
def models(handmade: Path, hosted: Any) -> Iterator[dict[int, Model]]:
    """By the largest batch of an engine."""
    opened = {most: load(handmade, backend=hosted(most=most), strategy="rects") for most in (0, 3)}
    yield opened
    for model in opened.values():
        model.close()


@pytest.fixture(scope="module")
def dense(handmade: Path) -> Iterator[Callable[..., dict[str, np.ndarray]]]:
    with load(handmade, threads=1) as model:
        yield lambda images: dict(model.dense(images))


@pytest.fixture
def always_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    force_windows(monkeypatch)


def force_windows(patch: pytest.MonkeyPatch) -> None:
    """Segments never run on whole maps."""
    forced = lambda rule, grid, n, images, most: (  # noqa: E731
        tiles.split(n, min(most(grid.window) or n, images * grid.count)) if n else [],
        0.0,
    )
    patch.setattr(regions, "price", forced)


def device_of(model: Model) -> HostDevice:
    return model.executor.device


def count_gets(model: Model, run: Callable[[], object]) -> int:
    before = device_of(model).gets
    run()
    return device_of(model).gets - before


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    active=st.lists(st.sampled_from([0.0, 0.002, 0.02, 0.3, 1.0]), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    sides=st.lists(st.integers(1, 24), min_size=1, max_size=3, unique=True),
    most=st.sampled_from([0, 3]),
    windows=st.booleans(),
)
def test_windows_are_dense(
    models, dense, close, make_image: MakeImage, size, active, seed, sides, most, windows
):
    """Any masks, sizes, batches, tiles and calls; with the state restored to what it was."""
    model, rng = models[most], np.random.default_rng(seed)
    height, width = (4 * n for n in size)
    masks = [rng.random((height, width)) < share for share in active]
    images = np.concatenate([make_image(mask, seed % 1000 + n) for n, mask in enumerate(masks)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "SIDES", tuple(sides))
        if windows:
            force_windows(patch)
        model.executor.references.clear()
        model.executor.costs = costs_of(0.01 * (seed % 3), 0.001)  # other costs, other tiles
        found = model(images)
    assert found.strategies == {"region0": ("windows",) * len(active)}
    close(found, dense(images))
    for reference in model.executor.references._entries.values():
        for scratch in reference.pool:
            for name, array in scratch.arrays.items():
                expected = np.broadcast_to(reference.arrays[name].values, array.shape)
                np.testing.assert_array_equal(array.values, expected)


@settings(deadline=None, max_examples=15)
@given(
    size=st.tuples(st.integers(6, 20), st.integers(6, 20)), batch=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_windows_are_dense_on_a_network(tiny: dict[str, Model], close, size, batch, seed):
    images = np.random.default_rng(seed).normal(size=(batch, 3, 4 * size[0], 4 * size[1])).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        force_windows(patch)
        found = tiny["device"](images)
    assert found.strategies["region0"] == ("windows",) * batch
    close(found, tiny["cpu"].dense(images))


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path, hosted: Any) -> Iterator[dict[str, Model]]:
    with (
        load(tiny_bundle, backend=hosted(), strategy="spans") as device,
        load(tiny_bundle, threads=1) as cpu,
    ):
        yield {"device": device, "cpu": cpu}


def test_sizes_without_whole_cells_run_dense(models, dense, close, make_image: MakeImage):
    image = make_image(np.eye(62, 66, dtype=bool))
    found = models[0](image)
    assert found.strategies == {"region0": ("dense",)}
    close(found, dense(image))


@pytest.fixture
def batch(make_image: MakeImage) -> np.ndarray:
    """One image with a small blob, one with a larger one, one empty."""
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 10:18, 20:30] = masks[1, 30:50, 4:30] = True
    return np.concatenate([make_image(mask, seed) for seed, mask in enumerate(masks)])


def test_one_read_back_decides_and_one_answers(handmade: Path, hosted: Any, batch: np.ndarray):
    with load(handmade, backend=hosted(), strategy="rects") as model:
        model(batch)
        assert count_gets(model, lambda: model(batch)) == 2
        on_device = device_of(model).put(batch)
        assert count_gets(model, lambda: model(on_device)) == 1
        assert count_gets(model, lambda: model.dense(batch)) == 1
    with load(handmade, backend=hosted(), strategy="dense") as model:
        assert count_gets(model, lambda: model(batch)) == 1


def test_what_comes_from_the_device_stays_there(handmade: Path, hosted: Any, batch: np.ndarray, dense, close):
    with load(handmade, backend=hosted(), strategy="rects") as model:
        found, again = model(device_of(model).put(batch)), model(device_of(model).put(0 * batch))
        assert all(isinstance(value, HostArray) for value in found.values())
        close({name: value.values for name, value in found.items()}, dense(batch))
        assert found.decisions["mask0"].active_fraction.tolist() == pytest.approx([20 / 1024, 130 / 1024, 0])
        assert isinstance(found.decisions["mask0"].keep, HostArray)
        close({name: value.values for name, value in again.items()}, dense(0 * batch))
        with pytest.raises(InputError, match="submit"):
            model.submit(device_of(model).put(batch[:1])).result()


def test_decisions_and_timing(models, batch: np.ndarray):
    result = models[0](batch)
    decision = result.decisions["mask0"]
    assert decision.keep.shape == decision.logits.shape == decision.energy.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(decision.active_fraction, [20 / 1024, 130 / 1024, 0])
    parts = sum(ms for phase, ms in result.timing.items() if phase != "total")
    assert result.timing["plan"] > 0 and 0 < parts <= result.timing["total"]


def test_what_is_not_finite_is_refused(models, batch: np.ndarray, dense, close):
    wrong = batch.copy()
    wrong[2, 0, 5, 5] = np.nan
    with pytest.raises(InputError, match=r"image 2 of input 'images': got 1 values"):
        models[0](wrong)
    close(models[0](batch), dense(batch))


def test_nan_in_a_decision_is_refused_at_the_read_back(
    handmade: Path, hosted: Any, batch: np.ndarray, dense, close
):
    batch[1, 0, 0, 0] = 100  # the image whose logits will not be finite
    with load(handmade, backend=hosted(), strategy="rects") as model:
        stem = model.executor.engines["programs/stem.onnx"]
        whole = stem.run

        def broken(feeds: dict[str, HostArray]) -> list[HostArray]:
            made = whole(feeds)
            logits = made[stem.outputs.index("mask0.logits")].values
            logits[feeds["images"].values[:, 0, 0, 0] == 100, 0, 3, 3] = np.nan
            return made

        stem.run = broken
        with pytest.raises(DecisionError, match=r"decision 'mask0' of image 1: got 1 of 1024 logits"):
            model(batch)
        before = device_of(model).gets
        with pytest.raises(DecisionError):
            model(batch)
        assert device_of(model).gets == before + 1, "and nothing was run behind it"
        futures = [model.submit(image[None]) for image in batch]
        assert isinstance(futures[1].exception(), DecisionError)
        for n in (0, 2):
            close(futures[n].result(), dense(batch[n : n + 1]))


def test_a_failure_leaves_no_half_written_state(
    handmade: Path, hosted: Any, batch: np.ndarray, dense, close, always_windows: None
):
    with load(handmade, backend=hosted(), strategy="rects") as model:
        close(model(batch), dense(batch))
        for name in "abcd":
            engine = model.executor.engines[f"programs/{name}.onnx"]
            works = engine.run

            def fails(feeds: object) -> Any:
                raise EngineError("c", got="a failure", expected="none", fix="Wait.")

            engine.run = fails
            with pytest.raises(EngineError, match="a failure"):
                model(batch)
            engine.run = works
            close(model(batch), dense(batch))
        assert model.stats()["errors"] == 4


def test_concurrent_callers_take_turns(handmade: Path, hosted: Any, make_image: MakeImage, dense, close):
    masks = np.random.default_rng(0).random((6, 64, 64)) < np.linspace(0, 0.1, 6)[:, None, None]
    images = [make_image(mask, seed) for seed, mask in enumerate(masks)]
    with load(handmade, backend=hosted(), strategy="rects") as model, ThreadPoolExecutor(4) as callers:
        turns: list[int] = []
        get = device_of(model).get

        def slow(arrays: Any) -> Any:
            turns.append(threading.get_ident())
            time.sleep(0.002)
            return get(arrays)

        model.executor.device.get = slow
        for image, found in zip(4 * images, callers.map(model, 4 * images), strict=True):
            close(found, dense(image))
        assert turns[::2] == turns[1::2] and len(set(turns)) > 1, "both reads of a request in its turn"
        futures = [model.submit(image) for image in images]
        for image, future in zip(images, futures, strict=True):
            close(future.result(), dense(image))
            assert future.result().decisions["mask0"].active_fraction.shape == (1,)


def test_choices_reach_engines_and_references(handmade: Path, hosted: Any, batch: np.ndarray, close):
    with (
        load(handmade, backend=hosted(), strategy="rects") as model,
        load(handmade, threads=1) as cpu,
    ):
        for gain in (2.0, 0.5, 2.0):
            model.set_choices({"gain": gain})
            cpu.set_choices({"gain": gain})
            close(model(batch), cpu.dense(batch))
        assert model.stats()["references"]["built"] == 2


def test_references_are_bounded(handmade: Path, hosted: Any, batch: np.ndarray, dense, close):
    with load(handmade, backend=hosted(), strategy="rects", cache_bytes=1000) as model:
        found = model(batch)
        assert found.strategies == {"region0": ("dense",) * 3}
        close(found, dense(batch))
        assert model.stats()["references"]["too_large"] == 1
    with load(handmade, backend=hosted(), strategy="rects", cache_bytes=2**20) as model:
        for size in range(32, 96, 8):
            model(np.zeros((1, 4, size, size), np.float32))
        references = model.stats()["references"]
        assert references["evicted"] > 0 and references["bytes"] <= 2**20
    with load(handmade, backend=hosted()) as model:
        assert model.stats()["references"]["limit"] == device_of(model).memory // 4


def test_batches_near_in_size_share_a_state(handmade: Path, hosted: Any, batch: np.ndarray, dense, close):
    with load(handmade, backend=hosted(), strategy="rects") as model:
        for n in (9, 10):
            images = batch[np.arange(n) % 3]
            close(model(images), dense(images))
        assert model.stats()["references"]["built"] == 1


@pytest.mark.parametrize(("dense_ms", "strategy"), [(1e3, "windows"), (1e-3, "dense")])
def test_costs_choose_for_the_batch(
    handmade: Path, hosted: Any, batch: np.ndarray, dense, close, dense_ms: float, strategy: str
):
    with load(handmade, backend=hosted()) as model:
        model.executor.costs = costs_of(0.01, 0.001, dense_ms)
        found = model(batch)
        assert found.strategies == {"region0": (strategy,) * 3}
        close(found, dense(batch))
        assert model.stats()["regions"]["region0"][strategy] == 3


def test_windows_that_lose_are_demoted(handmade: Path, hosted: Any, batch: np.ndarray, dense, close):
    with load(handmade, backend=hosted()) as model:
        model.executor.costs = costs_of(1e-9, 1e-9, 1e-2)  # as if windows took no time, and dense a little
        strategies = []
        for _ in range(12):
            found = model(batch)
            close(found, dense(batch))
            strategies.append(found.strategies["region0"][0])
        assert strategies[0] == "windows" and strategies[-1] == "dense"
        assert model.stats()["demotions"] == 1


def test_measured_costs_are_kept_for_this_device(
    make_bundle: Callable[..., Path], hosted: Any, monkeypatch: pytest.MonkeyPatch
):
    folder = make_bundle()
    with load(folder, backend=hosted()) as model:
        costs = model.measure()
        assert costs.measured and set(costs.segments) == set("abcd") and costs.shape == (4, 4, 64, 64)
        assert costs.regions["region0"] > 0 and 0 <= costs.break_even <= 1
        assert costs.fingerprint["device"] == "host"
    with load(folder, backend=hosted()) as model:
        assert model.executor.costs == costs
    with load(folder, threads=1) as model:
        assert not model.executor.costs.measured, "the CPU is another device"
    monkeypatch.setattr(HostDevice, "name", "another")
    with load(folder, backend=hosted()) as model:
        assert not model.executor.costs.measured


def test_warmup_pays_for_references(handmade: Path, hosted: Any, batch: np.ndarray):
    with load(handmade, backend=hosted(), strategy="rects") as model:
        model.warmup((3, 4, 64, 64))
        assert model.stats()["references"]["built"] == 1
        model(batch)
        assert model.stats()["references"]["built"] == 1


def test_videos_are_the_cpus(handmade: Path, hosted: Any):
    with load(handmade, backend=hosted()) as model, pytest.raises(InputError, match="a backend without"):
        model.stream()


def test_torch_goes_in_and_out(models, batch: np.ndarray):
    torch = pytest.importorskip("torch")
    found, expected = models[0](torch.from_numpy(batch)), models[0](batch)
    assert isinstance(found["y"], torch.Tensor)
    np.testing.assert_array_equal(found["d"].numpy(), expected["d"])


def test_an_input_that_is_an_output_is_copied(handmade: Path, hosted: Any, batch: np.ndarray):
    with load(handmade, backend=hosted(), strategy="rects") as model:
        images = device_of(model).put(batch)
        executor = model.executor
        executor.manifest = replace(
            executor.manifest, outputs=(*executor.manifest.outputs, executor.manifest.inputs[0])
        )
        executor._drops = [tuple(name for name in names if name != "images") for names in executor._drops]
        request = model._request(model._read(images), "rects")
        executor.run(request)
        assert request.tensors["images"].pointer != images.pointer
        np.testing.assert_array_equal(request.tensors["images"].values, batch)
