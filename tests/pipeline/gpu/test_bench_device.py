"""Bench on a device: the whole of it, on one in this machine's memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from foveate.pipeline.bench import bench
from foveate.pipeline.build import build
from foveate.pipeline.data import open_data
from foveate.pipeline.gpu import testbed
from foveate.pipeline.report import write_report
from foveate.pipeline.report_schema import check_report
from foveate.runtime.engine import TorchConfig

from ...early_exits import EXITS, exit_program
from .test_watch import FakeGpu, state


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few measurements on small maps, and a card that counts energy, and is throttled now and then."""
    states = [*[state(1900.0, "power cap")] * 12, state(1890.0, "hardware slowdown")] * 100
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testbed, "CONV", (1, 8, 32, 32))
        patch.setattr(testbed, "RELU", (1, 8, 64, 64))
        patch.setattr(testbed, "open_gpu", lambda: (Card(*states), ""))
        patch.setattr("foveate.pipeline.sweep.FRACTIONS", (0.1, 1.0))
        patch.setattr("foveate.pipeline.sweep.THRESHOLD_FRACTIONS", (0.15,))
        patch.setattr("foveate.pipeline.gpu.watch.SAMPLE_S", 0.0)
        patch.setattr("foveate.pipeline.gpu.watch.REST_S", 0.0)
        patch.setattr("foveate.pipeline.gpu.energy.SECONDS", 0.1)
        yield


class Card(FakeGpu):
    spent = 0.0

    def joules(self) -> float:
        self.spent += 4.0
        return self.spent


def data_of(path, count=4):
    random = np.random.default_rng(0)
    images = random.normal(size=(count, 3, 64, 96)).astype(np.float32)
    np.savez(path, images=images, labels=random.integers(0, 10, count))
    return open_data(path)


@pytest.fixture(scope="module")
def masked(build_tiny_bundle, tmp_path_factory):
    """Of a bundle in float16."""
    data = data_of(tmp_path_factory.mktemp("data") / "d.npz")
    return bench(
        build_tiny_bundle(target="torch:fp16"),
        data,
        backend=TorchConfig(device="cpu"),
        images=2,
        rounds=2,
        threads=1,
        batches=(1, 2),
        scales=(0.5,),
    )


def test_the_result_follows_the_schema_and_its_report_shows_the_gpu(masked, tmp_path):
    check_report(masked)
    assert masked == json.loads(json.dumps(masked, allow_nan=False))
    page = write_report(masked, tmp_path)
    assert "Batches and sizes" in page.read_text() and "Some GPU" in page.read_text()
    assert page.read_text().count("<svg") == 4
    assert "| J an image |" in (tmp_path / "report.md").read_text()


def test_dense_engines_are_the_backends(masked):
    assert masked["baseline"]["settings"].startswith("torch, fp16")
    assert masked["environment"]["backend"] == "torch"
    assert masked["parity"]["passed"]
    assert "windows" in masked["strategies"] or "dense" in masked["strategies"]


def test_what_was_throttled_was_timed_again(masked):
    watched = masked["gpu"]["watched"]
    assert watched["rejected"] > 0 and watched["kept_throttled"] == 0 and watched["settled"]
    assert watched["reasons"]["power cap"] > 0
    assert any("throttled in" in note for note in masked["notes"])
    assert any("power limit of 450 W" in note for note in masked["notes"])


def test_batches_and_sizes_are_of_the_images(masked):
    shapes = [(p["batch"], p["height"], p["width"]) for p in masked["shapes"]]
    assert shapes == [(1, 64, 96), (2, 64, 96), (1, 32, 48)]
    for point in masked["shapes"]:
        assert point["speedup"] == pytest.approx(point["dense_ms"] / point["adaptive_ms"])
        assert point["ideal_speedup"] >= 1


def test_energy_is_of_an_image(masked):
    assert set(masked["energy"]) == {"dense", "masked_dense", "adaptive"}
    assert all(0 < joules <= 4.0 for joules in masked["energy"].values())


def test_a_batch_of_mixed_depths(tmp_path):
    bundle = build(exit_program(tmp_path / "exits.onnx"), tmp_path / "bundle", sample=(1, 3, 64, 96))
    found = bench(
        bundle,
        data_of(tmp_path / "d.npz", 3),
        backend=TorchConfig(device="cpu"),
        images=3,
        rounds=2,
        threads=1,
        batches=(1,),
        scales=(),
        metric="agreement",
    )
    check_report(found)
    mixed = found["mixed"]
    assert mixed["depths"] == list(EXITS)
    assert mixed["of_ideal"] == pytest.approx(mixed["ideal_ms"] / mixed["mixed_ms"])
    assert "A batch of mixed depths" in (write_report(found, tmp_path / "r").parent / "report.md").read_text()
