"""Which layers run in low precision: found by what they cost, on images that choose, confirmed on others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.calibration import precision, trials
from foveate.calibration.precision import PrecisionBudget, calibrate_precision
from foveate.calibration.trials import PRECISION
from foveate.pipeline.against import against
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.data import open_data
from foveate.pipeline.deviation import Deviating, rms_error
from foveate.pipeline.driver import as_program
from foveate.runtime.errors import InputError, ProgramError
from onnx import helper, numpy_helper

from ..early_exits import exit_program


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """32 images float32, without labels."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).standard_normal((32, 3, 24, 24)).astype(np.float32))
    return path


def sensitive_program(path: Path) -> Path:
    """images -> 4 scores. Layer `fine` reads a channel 4000 times as large as the others, which alone decide."""
    rng = np.random.default_rng(0)
    fine = rng.standard_normal((4, 9, 1, 1)).astype(np.float32)
    fine[:, 8] = 0
    weights = {
        "w_first": rng.standard_normal((9, 3, 3, 3)).astype(np.float32),
        "w_second": rng.standard_normal((9, 9, 3, 3)).astype(np.float32) / 9,
        "spread": np.array([1.0] * 8 + [4000.0], np.float32).reshape(1, 9, 1, 1),
        "w_fine": fine,
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w_first"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w_second"], ["c"], name="second", pads=[1] * 4),
        helper.make_node("Mul", ["c", "spread"], ["d"], name="mul"),
        helper.make_node("Conv", ["d", "w_fine"], ["e"], name="fine"),
        helper.make_node("ReduceMean", ["e", "axes"], ["output"], name="mean", keepdims=0),
    ]
    given = helper.make_tensor_value_info("images", 1, ["batch", 3, "height", "width"])
    answer = helper.make_tensor_value_info("output", 1, ["batch", 4])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "sensitive", [given], [answer], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def test_all_layers_are_quantized_where_that_costs_nothing(make_program, images):
    found, path = calibrate_precision(make_program(masks=0), images)
    assert {layer.precision for layer in found.layers} == {"int8"} and found.work == pytest.approx(1.0)
    assert found.holds and found.search.images + found.held_out.images == 32
    assert path.name == "program.int8.onnx" and as_program(path) == path
    written = json.loads(path.with_suffix(".json").read_text())
    assert [layer["name"] for layer in written["layers"]] == [layer.name for layer in found.layers]
    model = onnx.load(path)
    told = json.loads(next(p.value for p in model.metadata_props if p.key == PRECISION))
    assert told == {layer.name: "int8" for layer in found.layers}


def test_a_layer_made_sensitive_stays_in_floats_and_no_other(tmp_path, images):
    found, _ = calibrate_precision(sensitive_program(tmp_path / "program.onnx"), images)
    floats = {layer.name: layer for layer in found.layers if layer.precision == "float"}
    assert list(floats) == ["fine"] and floats["fine"].why == "keeps quality"
    others = [layer.error for layer in found.layers if layer.name != "fine"]
    assert (floats["fine"].error or 0) > 10 * max(error for error in others if error is not None)
    assert found.search.after == found.search.before and 0.9 < found.work < 1
    assert next(found.rows())[0] == "fine"


def test_what_flips_decisions_stays_in_floats(make_program, images):
    """The stem stands before both masks: alone it can flip the first."""
    budget = PrecisionBudget(max_drop=1.0, agreement=1.0)
    found, _ = calibrate_precision(make_program(masks=1), images, budget=budget)
    stem, *others = found.layers
    assert (stem.precision, stem.why) == ("float", "keeps decisions") and stem.flips
    assert {layer.precision for layer in others} == {"int8"}
    assert found.search.agreement == {"mask0": 1.0} and found.search.agreeing == found.search.images
    assert found.search.value_error == found.search.error > 0


def test_layers_and_steps_may_be_kept(make_program, images):
    program = make_program(masks=1)
    names = [layer.name for layer in calibrate_precision(program, images)[0].layers]
    budget = PrecisionBudget(keep=("region0", names[-1]))
    found, _ = calibrate_precision(program, images, budget=budget)
    assert [layer.precision for layer in found.layers] == ["int8", "float", "float", "float"]
    assert {layer.why for layer in found.layers} == {"", "asked for"}
    assert [layer.step for layer in found.layers][:2] == ["dense0", "region0"]
    with pytest.raises(InputError, match="Did you mean 'region0'"):
        calibrate_precision(program, images, budget=PrecisionBudget(keep=("region",)))


def test_where_nothing_fits_nothing_is_quantized(tmp_path, images, monkeypatch):
    """A metric that only floats satisfy to the bit."""
    (tmp_path / "strict_metric.py").write_text(
        "seen = []\n"
        "def same(outputs, label):\n"
        "    value = float(outputs['output'].sum())\n"
        "    seen.append(value)\n"
        "    return float(len(seen) % 2 or seen[-2] == value)\n"
    )
    monkeypatch.chdir(tmp_path)
    program = sensitive_program(tmp_path / "program.onnx")
    found, path = calibrate_precision(program, images, metric="strict_metric:same")
    assert {layer.precision for layer in found.layers} == {"float"} and found.work == 0
    assert not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_it_goes_on_where_it_was_and_does_the_same(tmp_path, images, monkeypatch):
    program = sensitive_program(tmp_path / "program.onnx")
    whole, _ = calibrate_precision(program, images, out=tmp_path / "whole.onnx")
    measured, stopped = trials.Trials._measure, []

    def once(self, *args):
        if len(stopped) == 3:
            raise KeyboardInterrupt
        stopped.append(1)
        return measured(self, *args)

    monkeypatch.setattr(trials.Trials, "_measure", once)
    with pytest.raises(KeyboardInterrupt):
        calibrate_precision(program, images, out=tmp_path / "cut.onnx")
    assert not (tmp_path / "cut.onnx").exists()
    counted = []
    monkeypatch.setattr(
        trials.Trials, "_measure", lambda self, *a: (counted.append(1), measured(self, *a))[1]
    )
    resumed, path = calibrate_precision(program, images, out=tmp_path / "cut.onnx")
    assert resumed == whole and path.read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    total = len(json.loads((tmp_path / "whole.trials.json").read_text())["trials"])
    assert len(counted) == total - 3
    counted.clear()
    calibrate_precision(program, images, out=tmp_path / "cut.onnx")
    assert counted == []
    np.save(images, np.load(images) + 1)  # other data
    calibrate_precision(program, images, out=tmp_path / "cut.onnx")
    assert counted


def test_bad_input_is_named(make_program, tmp_path, images):
    program = make_program()
    _, quantized = calibrate_precision(program, images)
    with pytest.raises(ProgramError, match="QuantizeLinear"):
        calibrate_precision(quantized, images)
    with pytest.raises(InputError, match="at least 2"):
        calibrate_precision(program, images, limit=1)
    with pytest.raises(InputError, match="int8 or fp8"):
        calibrate_precision(program, images, kind="int4")
    with pytest.raises(InputError, match="the program itself"):
        calibrate_precision(program, images, out=program)
    values = np.load(images)
    values[3, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", values)
    with pytest.raises(InputError, match="NaN"):
        calibrate_precision(program, tmp_path / "nan.npy")


def test_a_bundles_choices_are_its_quantized_programs(build_tiny_bundle, tmp_path):
    bundle = build_tiny_bundle(choices={"mask0.threshold": 0.43})
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).standard_normal((4, 3, 64, 96)).astype(np.float32))
    _, made = calibrate_precision(bundle, path)
    assert made == bundle.with_name("bundle.int8.onnx")
    values = {i.name: numpy_helper.to_array(i) for i in onnx.load(made).graph.initializer}
    assert values["mask0.threshold"] == np.float32(0.43)


def test_the_command_line_writes_the_program_and_verify_tells_both_apart(
    make_program, tmp_path, images, capsys
):
    program = make_program()
    command = ["--data", str(images), "--threads", "1", "--quiet"]
    keep = ["--keep-float", "dense0"]
    assert main(["calibrate", str(program), "--precision", "int8", *keep, *command]) == 0
    told = capsys.readouterr().out
    assert "asked for" in told and "int8: 3 of 4 layers" in told and "mask0 agrees on 100.00%" in told
    bundle = build(tmp_path / "program.int8.onnx", tmp_path / "bundle", sample=(1, 3, 24, 24))
    assert main(["verify", str(bundle), "--against", str(program), *command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["against"]["agreement"] == {"mask0": 1.0}
    assert 0 < found["against"]["value_error"] < 0.1 and found["against"]["images"] == 32
    assert main(["verify", str(bundle), "--against", str(program), "--quiet"]) == 2
    assert "Add --data" in capsys.readouterr().err
    other = sensitive_program(tmp_path / "other.onnx")
    assert main(["verify", str(bundle), "--against", str(other), *command]) == 2
    assert "no 'mask0.keep'" in capsys.readouterr().err


def test_against_tells_depths_as_decisions(tmp_path):
    path = exit_program(tmp_path / "exits.onnx")
    bundle = build(path, tmp_path / "bundle", sample=(1, 3, 64, 64))
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32))
    found = against(bundle, path, open_data(images), threads=1)
    assert found.agreement == {"gate0": 1.0} and found.error < 1e-5 and found.agreeing == 3
    assert against(bundle, bundle, open_data(images), threads=1) == found  # the program of a bundle


def test_deviation_tells_decisions_and_values_apart():
    found = Deviating("agreement")
    answer = {"scores": np.array([[1.0, 2.0]], np.float32)}
    near = {"scores": np.array([[1.1, 2.0]], np.float32)}
    keep = {"mask": np.array([[1.0, 0.0, 1.0, 0.0]], np.float32)}
    flipped = {"mask": np.array([[1.0, 1.0, 1.0, 0.0]], np.float32)}
    found.add(answer, answer, keep, flipped)
    found.add(answer, near, keep, keep)
    told = found.result()
    assert told.agreement == {"mask": 0.875} and told.least_agreement == 0.875
    assert (told.images, told.agreeing) == (2, 1)
    assert told.value_error == pytest.approx(0.1 / np.sqrt(5), rel=1e-5)
    assert told.error == pytest.approx(0.05 / np.sqrt(5), rel=1e-5)
    assert told.drop == 0


def test_errors_of_what_is_not_finite_are_infinite():
    assert rms_error(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == np.inf
    assert rms_error(np.zeros(2), np.zeros(3)) == np.inf
    assert rms_error(np.zeros(2), np.zeros(2)) == 0
    found = Deviating("agreement")
    found.add({"y": np.ones((1, 2))}, {"y": np.full((1, 2), np.nan)}, {}, {})
    assert PrecisionBudget().broken(found.result()) == "quality"


@pytest.mark.parametrize("least", [1, 2, 5, 8])
def test_the_fewest_are_found(least):
    names = [str(n) for n in range(8)]
    tried = []
    assert precision._fewest(names, lambda some: tried.append(1) or len(some) >= least) == least
    assert len(tried) <= 3
