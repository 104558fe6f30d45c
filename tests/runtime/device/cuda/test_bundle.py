"""A whole bundle by backend `cuda`: loaded, measured, run and closed. Without a GPU on an emulated one, whose sessions
are onnxruntime's on the CPU; every other call is the one that a GPU gets."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from foveate.runtime import CudaConfig, Model, load, nvidia
from foveate.runtime.backends import cuda as backend
from foveate.runtime.cuda import library as kernel_library
from foveate.runtime.device import cuda, regions, tiles
from foveate.runtime.device.driver import Driver

from .conftest import Kernels
from .fake_driver import FakeLibrary

MakeImage = Callable[..., np.ndarray]


@pytest.fixture
def gpu() -> FakeLibrary:
    return FakeLibrary(eager=True, total=1 << 32)


@pytest.fixture
def emulated(gpu, emulated_kernels, monkeypatch) -> None:
    kernels = Kernels(emulated_kernels, gpu)
    monkeypatch.setattr(kernel_library, "library", lambda: kernels)
    monkeypatch.setattr(cuda, "open_driver", lambda: Driver(gpu))
    monkeypatch.setattr(nvidia, "_why_not_cuda", lambda: "")
    monkeypatch.setattr(backend, "_DEVICE", "cpu")
    monkeypatch.setattr(backend, "PROVIDERS", {"cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(backend, "providers", lambda *_: ["CPUExecutionProvider"])


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def model(request, handmade: Path) -> Iterator[Model]:
    if request.param == "emulated":
        request.getfixturevalue("emulated")
    elif reason := nvidia._why_not_cuda():
        pytest.skip(f"no GPU to run on: {reason}")
    with load(handmade, backend=CudaConfig(), strategy="rects") as opened:
        yield opened


@pytest.fixture
def images(make_image: MakeImage) -> np.ndarray:
    """One with a small blob, one fully active, one empty."""
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 10:18, 20:30] = masks[1] = True
    return np.concatenate([make_image(mask, seed) for seed, mask in enumerate(masks)])


def test_answers_are_the_dense_programs(model: Model, images: np.ndarray, handmade: Path):
    with load(handmade, backend="ort", threads=1) as on_cpu:
        expected = on_cpu.dense(images)
    for found in (model(images), model.dense(images), model(images)):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=2e-4 * np.abs(value).max())
    assert model.measure(images.shape, budget_ms=20)


def test_windows_are_those_of_the_host(
    emulated, handmade: Path, hosted, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
):
    """Where every segment runs on windows, whatever that costs; and where nothing leaves the GPU."""
    monkeypatch.setattr(
        regions, "price", lambda rule, grid, n, images, most: (tiles.split(n, n) if n else [], 0.0)
    )
    random = np.random.default_rng(0)
    for shares in ((0.05, 0.0, 0.3), (1.0,), (0.0, 0.0)):
        masks = [random.random((48, 64)) < share for share in shares]
        images = np.concatenate([make_image(mask, seed) for seed, mask in enumerate(masks)])
        with (
            load(handmade, backend=CudaConfig(), strategy="rects") as opened,
            load(handmade, backend=hosted(), strategy="rects") as on_host,
        ):
            device, expected = opened.executor.device, on_host(images)
            for found in (opened(images), opened(device.put(images)), opened(images)):
                assert found.strategies == {"region0": ("windows",) * len(shares)}
                for name, value in expected.items():
                    stays = not isinstance(found[name], np.ndarray)
                    np.testing.assert_array_equal(
                        device.get([found[name]])[0] if stays else found[name], value
                    )
                decision, same = found.decisions["mask0"], expected.decisions["mask0"]
                np.testing.assert_allclose(decision.active_fraction, same.active_fraction)


def test_it_takes_and_gives_nothing_back_late(emulated, gpu: FakeLibrary, handmade: Path, images: np.ndarray):
    """All that a model takes of the GPU it gives back."""
    with load(handmade, backend=CudaConfig(), strategy="rects") as opened:
        opened(images)
        held = sum(map(len, gpu.live.values()))
        opened(images)
        assert sum(map(len, gpu.live.values())) == held
    del opened
    gc.collect()
    assert not gpu.live and not gpu.events and gpu.ended == 1


def test_a_bundle_in_float16_runs_as_such(emulated, build_tiny_bundle: Callable[..., Path]):
    bundle = build_tiny_bundle(target="cuda:fp16")
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    with load(bundle, strategy="rects") as model, load(bundle, backend="ort") as on_cpu:
        assert model.config == CudaConfig(precision="fp16")
        lowered = {spec.name for spec in model.manifest.tensors if spec.dtype == "float16"}
        assert lowered and lowered == set(model.manifest.lowered)
        found, dense, expected = model(images), model.dense(images), on_cpu(images)
        assert all("windows" in used for used in found.strategies.values())
        keeps = [np.asarray(answer.decisions["mask0"].keep) for answer in (found, dense, expected)]
        np.testing.assert_array_equal(keeps[0], keeps[1])
        assert np.mean(keeps[0] == keeps[2]) > 0.99
        for name, value in dense.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-3 * np.abs(value).max())
            assert np.mean(np.abs(value - expected[name]) < 5e-3 * np.abs(value).max()) > 0.9
