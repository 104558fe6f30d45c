"""Bundles by torch answer what they answer by onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from foveate.pipeline.build import build
from foveate.runtime import load
from foveate.runtime.device import regions, replay, tiles
from foveate.runtime.device.cuda import why_missing
from foveate.runtime.device.host import HostDevice
from foveate.runtime.engine import TorchConfig
from foveate.runtime.errors import BackendWarning
from foveate.runtime.layouts import forced_depth
from foveate.runtime.manifest import ExitStep

from ...early_exits import EXITS, exit_program


def _why_no_gpu() -> str:
    return why_missing() or ("" if torch.cuda.is_available() else "torch without CUDA")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def config(request) -> TorchConfig:
    if request.param == "cuda" and (reason := _why_no_gpu()):
        pytest.skip(f"no GPU to run on: {reason}")
    torch.set_num_threads(1)
    return TorchConfig(device=request.param)


@pytest.mark.parametrize("strategy", ["rects", "dense"])
def test_a_masked_network(config, tiny_bundle, strategy):
    images = np.random.default_rng(0).normal(size=(3, 3, 64, 96)).astype(np.float32)
    with load(tiny_bundle, threads=1) as cpu, load(tiny_bundle, backend=config, strategy=strategy) as model:
        expected = cpu.dense(images)
        for _ in range(6):  # some of them replayed, on a GPU
            for name, value in model(images).items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4)
        found = model(images)
        assert found.strategies["region0"][0] == ("windows" if strategy == "rects" else "dense")


def test_a_region_that_is_replayed(config, tiny_bundle, monkeypatch):
    """With its engines in the graph, for images that change and masks that come to nothing."""
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    random = np.random.default_rng(0)
    with load(tiny_bundle, threads=1) as cpu, load(tiny_bundle, backend=config, strategy="rects") as model:
        monkeypatch.setattr(
            regions, "price", lambda rule, grid, n, images, most: (tiles.split(n, n) if n else [], 1.0)
        )
        for scale in (1, 1, 1, 1, 0, 1):
            images = scale * random.normal(size=(2, 3, 64, 96)).astype(np.float32)
            expected = cpu.dense(images)
            for name, value in model(images).items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4)
        assert model.stats()["replayed"]["region0"] >= 2


@pytest.mark.parametrize(
    ("sampled", "error"), [(False, 1e-4), (True, 1e-2)]
)  # samples jump at borders of maps
def test_an_encoder_with_exits(config, tmp_path, sampled, error):
    program = exit_program(tmp_path / "e.onnx", sampled=sampled)
    bundle = build(program, tmp_path / "b", sample=(1, 3, 32, 48), layout="chain")
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 48)).astype(np.float32)
    with (
        load(bundle, threads=1, layout="chain") as cpu,
        load(bundle, backend=config, layout="chain") as model,
    ):
        step = next(step for step in cpu.manifest.steps if isinstance(step, ExitStep))
        for depth in EXITS:
            for each in (cpu, model):
                each.set_choices(forced_depth(step, depth))
            expected, found = cpu(images), model(images)
            assert found.depth is not None and found.depth.tolist() == [depth] * 4
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name], rtol=10 * error, atol=error)


def test_answers_are_in_memory_of_their_own(tiny_bundle):
    """Poisoned on the host device, once nobody holds it."""
    images = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    with load(tiny_bundle, backend=TorchConfig(device="cpu"), strategy="dense") as model:
        assert isinstance(model.device, HostDevice)
        placed = model.device.put(images)
        first = model(placed)
        kept = {name: model.device.get([array])[0] for name, array in first.items()}
        model(model.device.put(-images))
        for name, array in first.items():
            np.testing.assert_array_equal(model.device.get([array])[0], kept[name])


@pytest.mark.skipif(not _why_no_gpu(), reason="there is a GPU")
def test_without_a_gpu_onnxruntime_answers_and_says_so(tiny_bundle):
    images = np.zeros((1, 3, 64, 96), np.float32)
    with pytest.warns(BackendWarning, match="not by torch"), load(tiny_bundle, backend="torch") as model:
        assert model.backend == "ort" and len(model(images)) > 0
