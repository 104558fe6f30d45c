"""Deletion and occlusion on a bundle's own engines: steered masks compute what the program would under them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foveate.pipeline import robustness as tested
from foveate.pipeline import steered as steering
from foveate.pipeline.accuracy import active_fraction
from foveate.pipeline.build import build
from foveate.pipeline.check import open_session
from foveate.pipeline.cli.main import main
from foveate.pipeline.data import open_data
from foveate.pipeline.robustness import difference, kept_tokens, occluded, robustness, token_norms
from foveate.pipeline.robustness_report import write_robustness
from foveate.pipeline.steered import SteeredTensorRT, steered
from foveate.runtime import Result, load
from foveate.runtime.bundle import open_bundle
from foveate.runtime.device.engine import open_on_device
from foveate.runtime.device.host import HostDevice
from foveate.runtime.engine import NullConfig, OrtConfig, Ports, TensorRTConfig, TorchConfig
from foveate.runtime.errors import InputError
from foveate.runtime.manifest import DenseSegment, EngineFile, Region
from hypothesis import given
from hypothesis import strategies as st

SHAPE = (1, 3, 64, 96)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def active_of(answer) -> float:
    """Of a bundle's answer; a dense program's says nothing of it."""
    return active_fraction(answer) if isinstance(answer, Result) else 1.0


@pytest.fixture
def labelled(tmp_path):
    """Four float images that the tiny network has labels for: what it answers, but for the last."""
    path = tmp_path / "labelled.npz"
    images = np.concatenate([noise(seed) for seed in range(4)])
    np.savez(path, images=images, labels=np.arange(4))
    return path


@pytest.mark.parametrize(
    ("engines", "strategy"),
    [
        (OrtConfig(threads=1), "spans"),
        (OrtConfig(threads=1), "rects"),
        (OrtConfig(threads=1), "dense"),
        (TorchConfig(device="cpu"), "rects"),
    ],
)
def test_steered_engines_compute_what_the_given_mask_keeps(tiny_bundle, tiny_program, engines, strategy):
    """Against the program with its decision cut out and the mask fed."""
    program = onnx.load(tiny_program)
    mask = next(n for n in program.graph.node if n.op_type == "EnergyMask")
    mask.output[0] = "own.keep"
    keep = onnx.helper.make_tensor_value_info("mask0.keep", 1, ["batch", 1, "h", "w"])
    program.graph.input.append(keep)
    wanted_of = open_session(program)
    manifest = open_bundle(tiny_bundle, verify=False).manifest
    config = steered(engines, ["mask0.keep"], tiny_bundle, manifest)
    with load(tiny_bundle, backend=config, strategy=strategy) as model:
        for seed in range(3):
            given = (np.random.default_rng(seed).random((1, 1, 32, 48)) < 0.3).astype(np.float32)
            config.keeps["mask0.keep"] = given
            result = model(noise(seed))
            wanted = wanted_of(["logits", "features"], {"images": noise(seed), "mask0.keep": given})
            np.testing.assert_array_equal(result.decisions["mask0"].keep, given)
            for name, value in wanted.items():
                assert np.abs(result[name] - value).max() <= 1e-5 * np.abs(value).max()
        config.keeps.clear()  # decided as ever
        with load(tiny_bundle, backend=engines, strategy=strategy) as plain:
            np.testing.assert_array_equal(model(noise(9))["logits"], plain(noise(9))["logits"])


def test_both_tests_on_a_bundle(tiny_bundle, labelled, tmp_path):
    found = robustness(tiny_bundle, open_data(labelled), metric="top5", threads=1)
    again = robustness(tiny_bundle, open_data(labelled), metric="top5", threads=1)
    assert found == again and found.images == 4
    curves = found.deletion.quality
    # With nothing removed, and with all, rankings cannot differ.
    assert len({curve[0] for curve in curves.values()}) == len({curve[-1] for curve in curves.values()}) == 1
    assert 0.3 < found.deletion.own_removed < 0.95
    assert found.occlusion.unmasked == "open masks" and len(found.occlusion.active) == 6
    page = write_robustness(found, tmp_path / "report")
    text = page.read_text()
    assert text.count("<svg") == 2 and "random" in text
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["deletion"]["area"] == found.deletion.area
    assert "| tokens | learned | magnitude | random |" in (tmp_path / "report" / "report.md").read_text()


def test_engines_on_a_device_are_those_that_are_tested(tiny_bundle, labelled, monkeypatch):
    """By torch, on this machine's memory."""
    monkeypatch.setattr(tested, "REMOVED", (0.0, 0.5, 1.0))
    monkeypatch.setattr(tested, "OCCLUDED", (0.0, 0.3))
    monkeypatch.setattr(
        tested._Judge, "__call__", lambda self, answer: float(np.asarray(answer["logits"]).sum())
    )
    torch, ort = (
        robustness(tiny_bundle, open_data(labelled), metric="top5", limit=2, backend=backend)
        for backend in (TorchConfig(device="cpu"), OrtConfig(threads=1))
    )
    assert (torch.backend, torch.strategy, ort.backend) == ("torch", "rects", "ort")
    assert torch.deletion.own_removed == ort.deletion.own_removed
    for name, curve in torch.deletion.quality.items():
        assert curve == pytest.approx(ort.deletion.quality[name], rel=1e-4)
    assert torch.occlusion.bundle == pytest.approx(ort.occlusion.bundle, rel=1e-4)


class Plan:
    """An engine of TensorRT, as far as steering knows it: it decides to keep nothing."""

    inputs, optional, capture = ("images",), (), None

    def __init__(self, ports: Ports):
        self.outputs = tuple(spec.name for spec in ports.outputs)

    def most(self, sizes):
        return 4

    def run(self, feeds):
        return [None for _ in self.outputs]

    def close(self):
        self.closed = True


def test_beside_a_plan_torch_runs_the_copy_of_what_decides(tiny_bundle, monkeypatch):
    """The plan and its GPU are stand-ins."""
    manifest = open_bundle(tiny_bundle, verify=False).manifest
    stem = next(step for step in manifest.steps if isinstance(step, DenseSegment))
    region = next(step for step in manifest.steps if isinstance(step, Region))
    files = {Path(file).stem: file for file in (stem.file, region.fallback)}
    made = [EngineFile(f, f"engines/{n}.sm89.plan", "", "", "", "sm89", "fp16") for n, f in files.items()]
    known = {spec.name: spec for spec in (*manifest.tensors, *manifest.outputs)}
    config = steered(
        TensorRTConfig(precision="fp16"),
        ["mask0.keep"],
        tiny_bundle,
        dataclasses.replace(manifest, engines=tuple(made)),
    )
    assert isinstance(config, SteeredTensorRT) and config.precision == "fp16"

    def open_stand_in(path, config, ports, device):
        if isinstance(config, TensorRTConfig):
            assert type(config) is TensorRTConfig
            return Plan(ports)
        return open_on_device(path, TorchConfig(device="cpu"), ports, device)

    monkeypatch.setattr(steering, "open_on_device", open_stand_in)
    device = HostDevice()

    def opened(file: str, step) -> Any:
        plan = next(tiny_bundle / engine.plan for engine in made if engine.program == file)
        ports = Ports(manifest.inputs, tuple(known[name] for name in step.outputs))
        return open_on_device(plan, config, ports, device)

    assert isinstance(opened(region.fallback, region), Plan)  # which makes no mask
    engine = opened(stem.file, stem)
    feeds, place = {"images": device.put(noise(0))}, stem.outputs.index("mask0.keep")
    assert engine.run(feeds)[place] is None and engine.most({}) == 4
    given = (np.random.default_rng(0).random((1, 1, 32, 48)) < 0.3).astype(np.float32)
    config.keeps["mask0.keep"] = given
    np.testing.assert_array_equal(device.get([engine.run(feeds)[place]])[0], given)
    engine.close()


def test_a_backend_that_cannot_be_steered_is_named(tiny_bundle):
    manifest = open_bundle(tiny_bundle, verify=False).manifest
    with pytest.raises(InputError, match="got backend 'null'; expected one of ort, cuda, torch, tensorrt"):
        steered(NullConfig(), ["mask0.keep"], tiny_bundle, manifest)


def test_rankings_and_their_curves(tiny_bundle, labelled, monkeypatch):
    """A judge that counts what is kept sees lines; one that wants the learned ranking's last token sees it go last."""
    monkeypatch.setattr(tested._Judge, "__call__", lambda self, answer: active_of(answer))
    found = robustness(tiny_bundle, open_data(labelled), threads=1)
    for curve in found.deletion.quality.values():
        assert curve == pytest.approx([1 - r for r in tested.REMOVED], abs=0.01)
    assert found.deletion.area == pytest.approx(dict.fromkeys(tested.RANKINGS, 0.5), abs=0.01)
    assert found.deletion.own_quality == pytest.approx(1 - found.deletion.own_removed)
    assert found.occlusion.bundle == pytest.approx(found.occlusion.active)


def test_removed_in_the_learned_order_is_what_thresholds_remove(tiny_bundle, monkeypatch, tmp_path):
    """The fraction that the mask itself removes, removed by rank, gives the mask's own answer."""
    path = tmp_path / "one.npy"
    np.save(path, noise(0))
    with load(tiny_bundle, threads=1) as model:
        own = model(noise(0))
        removed = 1 - active_of(own)
    monkeypatch.setattr(tested, "REMOVED", (0.0, removed, 1.0))
    monkeypatch.setattr(
        tested._Judge, "__call__", lambda self, answer: float(np.asarray(answer["logits"]).sum())
    )
    found = robustness(tiny_bundle, open_data(path), metric="agreement", threads=1)
    assert found.deletion.quality["learned"][1] == pytest.approx(found.deletion.own_quality, rel=1e-5)
    assert found.deletion.quality["random"][1] != pytest.approx(found.deletion.own_quality, rel=1e-5)


def test_without_labels_answers_are_compared_with_clean_ones(tiny_bundle, tmp_path):
    path = tmp_path / "plain.npy"
    np.save(path, noise(0))
    found = robustness(tiny_bundle, open_data(path), threads=1)
    assert found.metric == "agreement" and found.occlusion.bundle[0] == 1.0


def test_the_command_line_writes_a_report_and_takes_a_baseline(
    tiny_bundle, tiny_program, labelled, tmp_path, capsys
):
    out = tmp_path / "out"
    arguments = ["verify", str(tiny_bundle), "--data", str(labelled), "--metric", "top5", "--limit", "2"]
    arguments += [
        "--robustness",
        "--baseline",
        str(tiny_program),
        "--out",
        str(out),
        "--threads",
        "1",
        "--json",
    ]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] and told["robustness"]["occlusion"]["unmasked"] == "baseline"
    assert (out / "report.html").is_file()


def test_what_cannot_be_tested_is_named(tiny_bundle, make_program, tmp_path, labelled):
    with pytest.raises(InputError, match="no data"):
        robustness(tiny_bundle, None)
    plain = build(make_program(masks=0), tmp_path / "plain", sample=(1, 3, 24, 24))
    with pytest.raises(InputError, match="without energy masks"):
        robustness(plain, open_data(labelled))


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_more_removed_is_a_part_of_what_was_kept(importance, some, more):
    values = np.array(importance)
    few, many = sorted((some, more))
    kept = [kept_tokens(values, fraction) for fraction in (few, many)]
    assert (kept[1] <= kept[0]).all()
    for fraction, keep in zip((few, many), kept, strict=True):
        assert (keep == 0).sum() == round(fraction * len(values))
        if 0 < keep.sum() < len(values):
            assert values[keep == 0].max() <= values[keep == 1].min()


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    st.integers(1, 5),
)
def test_norms_are_those_of_the_patches(shape, patch):
    features = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    found = token_norms(features, patch)[0, 0]
    for y, x in np.ndindex(*found.shape):
        token = features[0, :, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
        assert found[y, x] == pytest.approx(np.linalg.norm(token.ravel().astype(np.float64)))


@given(st.integers(0, 50), st.floats(0, 1), st.tuples(st.integers(8, 40), st.integers(8, 40)))
def test_occlusion_covers_its_share_and_nothing_else(tiny_bundle, seed, fraction, size):
    manifest = open_bundle(tiny_bundle, verify=False).manifest
    image = np.random.default_rng(seed).standard_normal((1, 3, *size)).astype(np.float32)
    found = occluded(image, fraction, [0, seed], manifest)
    changed = (found != image).any(axis=1)
    block = max(1, min(size) // tested.BLOCKS)
    cells = -(-size[0] // block) * -(-size[1] // block)
    # Blocks at the border are smaller.
    assert abs(changed.mean() - fraction) <= 0.5 / cells + block * sum(size) / (size[0] * size[1])
    mean = np.broadcast_to(image.mean(axis=(2, 3), keepdims=True), image.shape)
    covered = np.broadcast_to(changed[:, None], image.shape)
    np.testing.assert_array_equal(found[covered], mean[covered])
    np.testing.assert_array_equal(found, occluded(image, fraction, [0, seed], manifest))


def test_differences_leave_out_what_is_not_defined():
    found = difference(np.array([1.0, np.nan, 0.5]), np.array([0.5, 1.0, 0.5]))
    assert found.mean == 0.25 and 0 <= found.low <= found.mean <= found.high <= 0.5
