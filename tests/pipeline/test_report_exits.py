"""What a report says of early exits: the curve of calibration, and from where to where the time goes."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foveate.calibration import Choices, ExitData
from foveate.calibration.exit_times import GateTime
from foveate.calibration.exit_tradeoff import Budget, Cost, ExitTradeoff, choose
from foveate.pipeline.bench import bench
from foveate.pipeline.build import build
from foveate.pipeline.data import open_data
from foveate.pipeline.report import markdown, print_result, write_report
from foveate.pipeline.report_exits import CURVE, exits_table, read_curve
from foveate.pipeline.report_schema import check_report
from foveate.runtime.bundle import open_bundle

from ..early_exits import EXITS, exit_program
from .report_sample import sample_report


@pytest.fixture(scope="module")
def tradeoff() -> ExitTradeoff:
    """Half of the images need all layers, and the features tell which."""
    rng = np.random.default_rng(0)
    hard = rng.random(80) < 0.5
    quality = np.where(hard[:, None], [0.2, 0.5, 0.9], [0.8, 0.8, 0.8])
    features = np.stack([hard + 0.1 * rng.standard_normal(80), rng.standard_normal(80)], axis=1)
    data = ExitData(features.astype(np.float32), quality, EXITS)
    costs = [Cost(exit, exit / 4, 2.0 + exit) for exit in EXITS]
    _, found = choose(data, costs, "labelled.npz", "top1", "chain", Budget())
    return dataclasses.replace(found, gate=GateTime(8, 4.5, 4.6))


@pytest.fixture
def result(tradeoff: ExitTradeoff) -> dict[str, Any]:
    found = sample_report()
    found.update(sweep=[], tradeoff=[], overlays=[], break_even=None, strategies={}, dense_ms=23.0)
    found["baseline"]["kind"] = "program"
    found["worst_case"] = {**found["worst_case"], "ratio": 1.02}
    calibrated = json.loads(json.dumps(dataclasses.asdict(tradeoff)))
    exits = {
        "layout": "chain",
        "layers": 4,
        "mean_depth": 2.5,
        "shares": {"1": 0.5, "4": 0.5},
        "calibrated": calibrated,
    }
    found["exits"] = exits
    check_report(found)
    return found


def test_the_table_has_gates_beside_fixed_and_random_depths(tradeoff: ExitTradeoff):
    table = exits_table(dataclasses.asdict(tradeoff))
    assert len(table.rows) == len(tradeoff.trials) + len(EXITS)
    assert all(len(row) == len(table.header) for row in table.rows)
    chosen = [row for row in table.rows if row[0].endswith("*")]
    assert len(chosen) == 1 and chosen[0][0].startswith("gate")
    point = tradeoff.chosen.point
    assert chosen[0][1:3] == (f"{point.quality:.4f}", f"{point.depth:.2f}") and point.wins
    assert chosen[0][7] == f"{point.quality - point.fixed:+.4f}"
    assert "4.60 ms, where their exits take 4.50 ms" in table.note


def test_the_page_has_the_curve_and_the_savings(result: dict[str, Any], tmp_path: Path):
    html = write_report(result, tmp_path).read_text()
    assert html.count("<svg") == 3
    for shown in ("Early exits", "What leaving early saves", "one depth for all images", "oracle", "chosen"):
        assert shown in html
    assert "masked program" not in html and "all layers, dense" in html


def test_the_savings_add_up(result: dict[str, Any]):
    """From 23 ms: 2 % are the price of gate and dispatch, and 10 ms are left."""
    text = markdown(result)
    assert "| − layers that images left out | -13.46 | -58.5 % |" in text
    assert "| + gate and dispatch | +0.46 | 2.0 % |" in text
    assert "| = Foveate, adaptive | 10.00 | 43.5 % |" in text


def test_without_calibration_the_page_has_the_savings_alone(result: dict[str, Any], tmp_path: Path):
    result["exits"]["calibrated"] = None
    html = write_report(result, tmp_path).read_text()
    assert html.count("<svg") == 2 and "Early exits" not in html and "What leaving early saves" in html


def test_no_gate_that_tells_images_apart_is_drawn_as_none(result: dict[str, Any], tmp_path: Path):
    curve = result["exits"]["calibrated"]
    curve.update(trials=[], chosen=curve["depths"][-1])
    assert "oracle" in write_report(result, tmp_path).read_text()


def test_the_console_names_the_layers(result: dict[str, Any]):
    out = io.StringIO()
    print_result(result, out)
    assert "2.50  layers of 4 (mean over the images; 1: 50 %, 4: 50 %)" in out.getvalue()
    assert "all layers, dense" in out.getvalue()


def test_bench_measures_a_program_with_exits(tradeoff: ExitTradeoff, tmp_path: Path):
    program = exit_program(tmp_path / "exits.onnx")
    bundle = build(program, tmp_path / "bundle", sample=(1, 3, 32, 48), layout="chain")
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 48)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images)
    found = bench(bundle, open_data(tmp_path / "images.npz"), images=3, rounds=2, threads=1)
    assert found["baseline"]["kind"] == "program" and not any("flatters" in n for n in found["notes"])
    assert sum(found["exits"]["shares"].values()) == pytest.approx(1) and found["exits"]["layers"] == 4
    assert found["exits"]["calibrated"] is None and found["exits"]["layout"] == "chain"
    assert found["worst_case"]["adaptive_ms"] != found["adaptive_ms"]  # all layers: a measurement of its own
    parts = {part["part"] for part in found["waterfall"]}
    assert {"stem", "head"} <= parts and not any("region" in part for part in parts)


def test_a_curve_is_that_of_the_gate_in_the_bundle(tradeoff: ExitTradeoff, tmp_path: Path):
    bundle = build(exit_program(tmp_path / "exits.onnx"), tmp_path / "bundle", sample=(1, 3, 32, 48))
    manifest = open_bundle(bundle).manifest
    assert read_curve(bundle, manifest) is None
    tradeoff.write(bundle)
    bias = next(choice.value for choice in manifest.choices if choice.name == "gate0.bias")
    assert isinstance(bias, list)
    Choices("", "", 1, {"gate0.bias": bias}, {}, None).write(bundle / "choices.json")
    assert read_curve(bundle, manifest) == json.loads((bundle / f"{CURVE}.json").read_text())
    Choices("", "", 1, {"gate0.bias": [b + 1 for b in bias]}, {}, None).write(bundle / "choices.json")
    assert read_curve(bundle, manifest) is None
