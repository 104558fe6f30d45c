"""The device executor on a CUDA device with its kernels, on an emulated GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foveate.runtime import load
from foveate.runtime.cuda import library as kernel_library
from foveate.runtime.device import opening, regions, tiles
from foveate.runtime.device.array import CudaArray
from foveate.runtime.device.cuda import CudaDevice
from foveate.runtime.device.device import DeviceArray
from foveate.runtime.device.driver import Driver

from .conftest import Kernels
from .fake_driver import FakeLibrary


@pytest.fixture
def gpu() -> FakeLibrary:
    """Whose work is done at once: engines compute on its memory."""
    return FakeLibrary(eager=True)


@pytest.fixture
def on_gpu(gpu, emulated_kernels, hosted, monkeypatch) -> Any:
    """The config of engines that compute in the memory of an emulated GPU."""
    kernels = Kernels(emulated_kernels, gpu)
    monkeypatch.setattr(kernel_library, "library", lambda: kernels)
    monkeypatch.setitem(opening._DEVICES, hosted, lambda config: CudaDevice(Driver(gpu)))
    monkeypatch.setattr(hosted, "read", staticmethod(values_of))
    return hosted


def values_of(array: DeviceArray) -> np.ndarray:
    assert isinstance(array, CudaArray)
    memory = (ctypes.c_ubyte * max(1, array.nbytes)).from_address(array.pointer)
    return np.frombuffer(memory, array.dtype, int(np.prod(array.shape, dtype=int))).reshape(array.shape)


def read(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: values_of(value).copy() for name, value in outputs.items()}


@pytest.mark.parametrize("active", [(0.05, 0.0, 0.3), (1.0,), (0.0, 0.0)])
@pytest.mark.parametrize("most", [0, 2])
def test_windows_are_dense(
    handmade: Path, on_gpu: Any, make_image: Callable[..., np.ndarray], close, monkeypatch, active, most: int
):
    monkeypatch.setattr(regions, "price", forced)
    rng = np.random.default_rng(0)
    masks = [rng.random((48, 64)) < share for share in active]
    images = np.concatenate([make_image(mask, seed) for seed, mask in enumerate(masks)])
    with load(handmade, threads=1) as cpu:
        expected = cpu.dense(images)
    with load(handmade, backend=on_gpu(most=most), strategy="rects") as model:
        for _ in range(2):
            found = model(images)
            assert found.strategies == {"region0": ("windows",) * len(active)}
            close(found, expected)
            decision, same = found.decisions["mask0"], expected.decisions["mask0"]
            np.testing.assert_allclose(decision.active_fraction, same.active_fraction)
        stays = model(model.executor.device.put(images))
        close(read(stays), expected)
        close(model.dense(images), expected)


def forced(rule, grid, n, images, most):
    return (tiles.split(n, min(most or n, images * grid.count)) if n else [], 0.0)


def test_memory_is_given_back(handmade: Path, on_gpu: Any, gpu: FakeLibrary, make_image):
    image = make_image(np.eye(64, dtype=bool))
    with load(handmade, backend=on_gpu(), strategy="rects") as model:
        model(image)
        gc.collect()
        held = len(gpu.live)
        for _ in range(5):
            model(image)
        gc.collect()
        assert len(gpu.live) <= held
        device, references = model.executor.device, len(model.executor.references)
        assert references == 1
    gc.collect()
    assert len(gpu.live) < held
    del device
