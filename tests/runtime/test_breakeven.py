"""Measured costs: their model, device.json, the fingerprint, and the break-even they give."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foveate.runtime import load, measure
from foveate.runtime.bundle import open_bundle
from foveate.runtime.costs import DeviceCosts, SegmentCost, fingerprint, guess_costs, read_costs, write_costs
from foveate.runtime.grid import RegionGrid, grid_of
from foveate.runtime.manifest import Region
from foveate.runtime.probes import crossing, ellipse, fit, lowered_costs

HERE = fingerprint(1)


def costs(fixed_ms: float = 0.01, ms_per_cell: float = 0.001, dense_ms: float = 2.0) -> DeviceCosts:
    segments = {name: SegmentCost(fixed_ms, ms_per_cell) for name in "abcd"}
    return DeviceCosts(HERE, (1, 4, 64, 64), segments, {"region0": dense_ms}, 0.4, guesses=segments)


def grid(bundle: Path, priced: DeviceCosts) -> RegionGrid:
    region = next(s for s in open_bundle(bundle).manifest.steps if isinstance(s, Region))
    shapes = {"x": 32, "mask0.keep": 32, "keep2": 16, "a": 32, "b": 16, "c": 16, "d": 32}
    return grid_of(region, {name: (1, 1, n, n) for name, n in shapes.items()}, priced)


def test_a_line_is_found_again():
    found = fit([(cells, 0.2 + 0.003 * cells) for cells in (10, 40, 200)])
    assert found.fixed_ms == pytest.approx(0.2) and found.ms_per_cell == pytest.approx(0.003)


@pytest.mark.parametrize("points", [[(10, 0.5)], [(10, 0.1), (100, 2.0)], [(10, 1.0), (100, 0.5)]])
def test_costs_are_never_negative(points: list[tuple[int, float]]):
    found = fit(points)
    assert found.fixed_ms >= 0 and found.ms_per_cell > 0


def test_what_a_replay_saves_is_taken_from_calls(handmade: Path):
    region = next(s for s in open_bundle(handmade).manifest.steps if isinstance(s, Region))
    for ms, left in ((1.6, 0.01 / 2), (1.0, 0.0), (3.0, None)):  # of 2 ms, of which 0.8 are for calls
        found = lowered_costs([(region, ms, 2.0, 0.8)], costs())
        assert set(found) == (set() if left is None else set("abcd"))
        for cost in found.values():
            assert cost.fixed_ms == pytest.approx(left) and cost.ms_per_cell == 0.001


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_an_ellipse_has_its_fraction(fraction: float):
    assert ellipse((30, 50), fraction).sum() == round(fraction * 1500)


def test_break_even_lies_where_the_costs_meet():
    assert crossing(0.8, [lambda fraction: 0.2 + 2 * fraction]) == pytest.approx(0.3)
    assert crossing(1.2, [lambda fraction: 0.2 + fraction, lambda fraction: fraction]) == pytest.approx(0.5)
    assert crossing(50, [lambda fraction: 1 + fraction]) == 1.0
    assert crossing(0.5, [lambda fraction: 9.0]) == 0.0
    assert crossing(0.0, []) == 0.0


def test_dense_costs_follow_the_resolution(handmade: Path):
    region = grid(handmade, costs()).region
    above_fixed = [(costs().dense_ms(region, 4 * n * n) or 0.0) - 0.04 for n in (32, 64, 128)]
    assert above_fixed == pytest.approx([1.96 / 4, 1.96, 1.96 * 4])


def test_device_json_survives(handmade: Path, tmp_path: Path):
    manifest = open_bundle(handmade).manifest
    assert write_costs(tmp_path / "device.json", costs())
    assert read_costs(tmp_path / "device.json", HERE, manifest) == costs()
    assert [p.name for p in tmp_path.iterdir()] == ["device.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 7}', '{"schema_version": 1}'])
def test_a_damaged_device_json_is_measured_again(handmade: Path, tmp_path: Path, text: str):
    path = tmp_path / "device.json"
    path.write_text(text)
    assert read_costs(path, HERE, open_bundle(handmade).manifest) is None


def test_another_device_or_build_is_measured_again(
    handmade: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    manifest, path = open_bundle(handmade).manifest, tmp_path / "device.json"
    caplog.set_level("INFO", "foveate")
    write_costs(path, costs())
    assert read_costs(path, {**HERE, "cpu": "another"}, manifest) is None
    assert "'another'" in caplog.text
    assert read_costs(path, fingerprint(2), manifest) is None
    data = json.loads(path.read_text())
    del data["segments"]["b"]
    path.write_text(json.dumps(data))
    assert read_costs(path, HERE, manifest) is None


def test_a_first_request_measures_and_keeps(make_bundle: Callable[..., Path]):
    bundle = make_bundle()
    with load(bundle, threads=1) as model:
        assert not model.stats()["device"]["measured"]
        model(np.zeros((1, 4, 64, 64), np.float32))
        assert model.stats()["device"]["measured"]
        kept = model.executor.costs
    assert set(kept.segments) == set("abcd") and set(kept.regions) == {"region0"}
    assert kept.shape == (1, 4, 64, 64) and 0 <= kept.break_even <= 1
    data = json.loads((bundle / "device.json").read_text())
    assert data["fingerprint"] == fingerprint(1) and data["regions"]["region0"]["dense_ms"] > 0
    with load(bundle, threads=1) as model:
        assert model.executor.costs == kept, "found again"
    with load(bundle, threads=2) as model:
        assert not model.executor.costs.measured, "another number of threads is another device"


def test_a_read_only_bundle_keeps_costs_in_memory(
    make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_: object, **__: object):
        raise PermissionError(13, "Permission denied")

    caplog.set_level("INFO", "foveate")
    bundle = make_bundle()
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with load(bundle, threads=1) as model:
        model.warmup()
        assert model.executor.costs.measured
    assert not (bundle / "device.json").exists() and "kept in memory" in caplog.text


def test_a_budget_too_short_stays_dense(
    make_bundle: Callable[..., Path], make_image: Callable[..., np.ndarray]
):
    with load(make_bundle(), threads=1) as model:
        found = measure(model, budget_ms=0.0)
        assert found.measured and not found.regions
        assert model(make_image(np.zeros((64, 64), bool))).strategies == {"region0": ("dense",)}


def test_other_strategies_do_not_measure(make_bundle: Callable[..., Path]):
    bundle = make_bundle()
    for strategy in ("dense", "rects"):
        with load(bundle, threads=1, strategy=strategy) as model:
            model.warmup()
    assert not (bundle / "device.json").exists()


def test_guesses_cut_rectangles_but_choose_nothing(handmade: Path):
    manifest = open_bundle(handmade).manifest
    guessed = guess_costs(manifest, HERE)
    region = next(s for s in manifest.steps if isinstance(s, Region))
    assert guessed.of("a").ms_per_cell > guessed.of("d").ms_per_cell
    assert guessed.dense_ms(region, 1000) is None


def test_a_full_mask_is_never_predicted_to_gain(make_bundle: Callable[..., Path]):
    """However noisily the fallback was measured: its segments do the same work."""
    with load(make_bundle(), threads=1) as model:
        measure(model, budget_ms=100.0)
        for _ in range(3):
            assert model(np.ones((1, 4, 64, 64), np.float32)).strategies == {"region0": ("dense",)}
