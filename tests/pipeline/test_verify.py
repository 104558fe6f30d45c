"""Verify: passes on a good bundle, and fails on an injected value error, a flipped decision and an empty comparison."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.compare import NEAR, ImageCheck, Keep, compare, relative_error
from foveate.pipeline.data import open_data
from foveate.pipeline.masks import CLOSED, OPEN, importance, threshold_for
from foveate.pipeline.verify import random_images, summarize, verify
from foveate.runtime.bundle import hash_file, open_bundle
from foveate.runtime.errors import CheckFailed, InputError
from foveate.runtime.manifest import DenseSegment, Region
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ..early_exits import EXITS, exit_program

onnx = pytest.importorskip("onnx")


def test_a_good_bundle_passes_on_random_images_with_masks_of_all_kinds(tiny_bundle):
    report = verify(tiny_bundle, limit=6, threads=1)
    assert report.passed and report.require() is report
    assert [check.strategy for check in report.checks] == ["spans", "rects", "auto"]
    for check in report.checks:
        assert check.images == check.images_agreeing == 6
        assert check.decision_agreement == 1 and check.flips == 0
        assert 0 <= check.max_rel_error <= 1e-5
    json.dumps(report.to_dict(), allow_nan=False)


def test_data_is_compared_under_the_bundle_s_own_choices(tiny_bundle, tmp_path):
    images = np.random.default_rng(0).normal(size=(3, 3, 64, 96)).astype(np.float32)
    np.savez(tmp_path / "d.npz", images=images)
    ticks: list[None] = []
    report = verify(
        tiny_bundle, open_data(tmp_path / "d.npz"), limit=2, threads=1, tick=lambda: ticks.append(None)
    )
    assert report.passed and report.data.endswith("d.npz") and len(ticks) == 2
    assert report.checks[0].worst_image in ("d.npz[0]", "d.npz[1]")


def test_a_metric_is_told_of_the_bundle_its_reference_and_all_layers(tiny_bundle, tmp_path, capsys):
    random = np.random.default_rng(0)
    images = random.normal(size=(3, 3, 64, 96)).astype(np.float32)
    np.savez(tmp_path / "d.npz", images=images, labels=random.integers(0, 10, 3))
    data = open_data(tmp_path / "d.npz")
    quality = verify(tiny_bundle, data, metric="top5", threads=1).quality
    assert quality is not None and (quality.metric, quality.images) == ("top5", 3)
    assert quality.bundle == quality.reference and quality.all_layers is None
    with pytest.raises(InputError, match="Add --data"):
        verify(tiny_bundle, metric="top5", threads=1)

    bundle = build(exit_program(tmp_path / "exits.onnx"), tmp_path / "bundle", sample=(1, 3, 32, 48))
    images = random.normal(size=(4, 3, 32, 48)) * np.array([0.2, 0.2, 8, 8])[:, None, None, None]
    np.savez(tmp_path / "e.npz", images=images.astype(np.float32), labels=np.zeros(4, np.int64))
    arguments = [
        str(bundle),
        "--data",
        str(tmp_path / "e.npz"),
        "--metric",
        "tests.pipeline.test_verify:depth",
    ]
    assert main(["verify", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["quality"]
    assert found["bundle"] == found["reference"] < found["all_layers"] == EXITS[-1]
    for layout in ("chain", "per-depth", "if"):
        assert main(["build", str(bundle), "--exit-layout", layout]) == 0
        assert main(["verify", *arguments]) == 0
        assert "with all layers 4.0000" in capsys.readouterr().out


def depth(outputs: dict[str, np.ndarray], label: int) -> float:
    """A metric: the layers that an image took."""
    return float(outputs["depth"][0])


def damaged(bundle: Path, copy: Path, damage: Callable[[Path, Region, DenseSegment], str]) -> Path:
    """A copy of the bundle after `damage(copy, its region, its stem)`, which gives the file that it edited; the
    manifest's hash is mended, so that nothing but verify can tell."""
    shutil.copytree(bundle, copy)
    steps = open_bundle(copy).manifest.steps
    region = next(step for step in steps if isinstance(step, Region))
    stem = next(step for step in steps if isinstance(step, DenseSegment))
    name = damage(copy, region, stem)
    data = json.loads((copy / "manifest.json").read_text())
    data["files"][name] = {"sha256": hash_file(copy / name), "bytes": (copy / name).stat().st_size}
    (copy / "manifest.json").write_text(json.dumps(data))
    return copy


def scale_last_segment(copy: Path, region: Region, stem: DenseSegment) -> str:
    """The region's last local segment gives 1.001 times its first output."""
    file = region.segments[-1].file
    model = onnx.load(copy / file, load_external_data=False)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}.before" if output == name else output for output in node.output]
        node.input[:] = [f"{name}.before" if source == name else source for source in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.001), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", [f"{name}.before", "factor"], [name]))
    (copy / file).write_bytes(model.SerializeToString())
    return file


def move_threshold(copy: Path, region: Region, stem: DenseSegment) -> str:
    """The bundle's stem decides by another threshold than the program."""
    model = onnx.load(copy / stem.file, load_external_data=False)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.3), "moved"))
    [node] = [node for node in model.graph.node if "mask0.threshold" in node.input]
    node.input[list(node.input).index("mask0.threshold")] = "moved"
    (copy / stem.file).write_bytes(model.SerializeToString())
    return stem.file


def test_an_injected_value_error_fails_and_the_worst_image_is_named(tiny_bundle, tmp_path):
    copy = damaged(tiny_bundle, tmp_path / "bundle", scale_last_segment)
    report = verify(copy, limit=3, threads=1, strategies=("rects",))
    [check] = report.checks
    assert not report.passed and check.decision_agreement == 1
    assert 1e-4 < check.max_rel_error < 1e-2
    with pytest.raises(CheckFailed, match=r"random\[\d\]") as caught:
        report.require()
    assert caught.value.exit_code == 1
    assert verify(copy, limit=2, threads=1, strategies=("rects",), tolerance=0.1).passed


def test_a_flipped_decision_fails_whatever_the_tolerance(tiny_bundle, tmp_path):
    copy = damaged(tiny_bundle, tmp_path / "bundle", move_threshold)
    report = verify(copy, limit=3, threads=1, strategies=("rects",), tolerance=1e9)
    [check] = report.checks
    assert not report.passed and check.flips > check.near_flips and check.decision_agreement < 1
    with pytest.raises(CheckFailed, match="decisions agree on"):
        report.require()


KEEP = np.zeros((1, 1, 4, 4), np.float32)


def with_flips(*positions: tuple[int, int]) -> np.ndarray:
    keep = KEEP.copy()
    for y, x in positions:
        keep[0, 0, y, x] = 1
    return keep


def margin(near: tuple[int, int]) -> np.ndarray:
    found = np.full((1, 1, 4, 4), 0.3, np.float32)
    found[0, 0, near[0], near[1]] = NEAR / 2
    return found


def test_a_flip_within_rounding_of_the_threshold_is_counted_and_does_not_fail():
    values = {"y": np.ones(3)}
    near = compare("a", {"y": np.zeros(3)}, [with_flips((1, 1))], values, [Keep(KEEP, margin((1, 1)))])
    good = compare("b", values, [KEEP], values, [Keep(KEEP, margin((1, 1)))])
    assert (near.flips, near.near_flips, near.errors) == (1, 1, None)
    summary = summarize("rects", [near, good])
    assert summary.passed and summary.images_agreeing == 1 and summary.decision_agreement == 31 / 32
    assert "agree on 1 of 2 images" in summary.line() and "1 within rounding" in summary.line()


def test_a_flip_away_from_the_threshold_fails_and_names_its_image():
    values = {"y": np.ones(3)}
    far = compare("far", values, [with_flips((1, 1), (2, 2))], values, [Keep(KEEP, margin((1, 1)))])
    good = compare("good", {"y": np.ones(3) + 1e-6}, [KEEP], values, [Keep(KEEP)])
    summary = summarize("rects", [far, good])
    assert (far.flips, far.near_flips) == (2, 1)
    assert not summary.passed and summary.worst_image == "far"


def test_later_decisions_follow_an_excused_flip():
    """A second mask sees features that the near flip has changed."""
    keeps, expected = (
        [with_flips((1, 1)), with_flips((2, 2))],
        [Keep(KEEP, margin((1, 1))), Keep(KEEP, margin((0, 0)))],
    )
    check = compare("a", {}, keeps, {}, expected)
    assert (check.flips, check.near_flips) == (2, 2)
    keeps[0] = with_flips((3, 3))
    check = compare("a", {}, keeps, {}, expected)
    assert (check.flips, check.near_flips) == (2, 0)


def test_where_no_image_agrees_nothing_was_checked_and_it_fails():
    near = ImageCheck("a", 16, 1, 1, None)
    summary = summarize("rects", [near])
    assert not summary.passed and np.isnan(summary.max_rel_error)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (np.ones(3), np.ones(3), 0.0),
        (np.array([1.0, 2.0]), np.array([1.0, 4.0]), 0.5),
        (np.zeros(2), np.zeros(2), 0.0),
        (np.array([1e-9]), np.zeros(1), np.inf),
        (np.array([np.nan, 1]), np.ones(2), np.inf),
        (np.array([np.inf, 1]), np.array([np.inf, 1]), 0.0),
        (np.array([np.nan, 1]), np.array([np.inf, 1]), np.inf),
        (np.ones(2), np.ones(3), np.inf),
        (None, np.ones(3), np.inf),
        (np.zeros((0, 2)), np.zeros((0, 2)), 0.0),
    ],
)
def test_relative_error(ours, theirs, expected):
    assert relative_error(ours, theirs) == expected


finite = arrays.arrays(np.float32, (1, 1, 4, 5), elements=st.floats(-6, 6, width=32))


@given(finite, st.floats(0, 1), st.floats(0.5, 2))
def test_a_forced_threshold_leaves_the_fraction_asked_for_as_far_as_ties_allow(logits, fraction, temperature):
    kept = importance(logits, temperature) > np.float32(threshold_for(logits, temperature, fraction))
    count = round(fraction * logits.size)
    values = np.sort(importance(logits, temperature), axis=None)[::-1]
    tied = 0 < count < logits.size and np.isclose(values[count - 1], values[count], rtol=0, atol=1e-6)
    assert tied or kept.sum() == count


def test_the_ends_of_the_thresholds_keep_all_and_nothing():
    extreme = np.array([-200.0, 0, 200], np.float32)
    assert (importance(extreme, 1) > OPEN).all() and not (importance(extreme, 1) > CLOSED).any()


def test_random_images_are_seeded_and_of_the_sample_s_shape(tiny_bundle):
    manifest = open_bundle(tiny_bundle).manifest
    first, again = ([s.image for s in random_images(manifest, 2)] for _ in range(2))
    assert first[0].shape == (1, 3, 64, 96) and first[0].dtype == np.float32
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])
