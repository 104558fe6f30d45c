"""Programs in Q/DQ are judged step by step: what a discontinuity makes of rounding passes, and a wrong engine fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.calibration.layers import layers_of
from foveate.calibration.quantized import measure_ranges, quantized
from foveate.export.program import load_program, save_program
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.compare import ImageCheck
from foveate.pipeline.verify import verify
from foveate.pipeline.verify_report import summarize
from foveate.pipeline.verify_steps import StepCheck
from foveate.runtime.bundle import hash_file
from onnx import helper, numpy_helper

from ..early_exits import exit_program

SHAPE = (1, 3, 32, 48)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """In int8, of a program with exits whose classes turn with the head's sums a thousand times over: a discontinuity,
    as good as."""
    folder = tmp_path_factory.mktemp("steps")
    program = load_program(exit_program(folder / "exits.onnx"))
    head = next(node for node in program.graph.node if "classes" in node.output)
    head.output[0] = "sums"
    program.graph.initializer.append(numpy_helper.from_array(np.array(1000, np.float32), "often"))
    program.graph.node.append(helper.make_node("Mul", ["sums", "often"], ["angles"], name="turn"))
    program.graph.node.append(helper.make_node("Sin", ["angles"], ["classes"], name="sine"))
    layers = layers_of(program)
    noise = ({"images": np.random.default_rng(n).standard_normal(SHAPE, np.float32)} for n in range(3))
    low = quantized(program, measure_ranges(program, layers, noise), [layer.name for layer in layers])
    return build(save_program(low, folder / "int8.onnx"), folder / "bundle", sample=SHAPE)


def edited(bundle: Path, copy: Path, file: str, change) -> Path:
    """A copy of the bundle after `change(the model of that file)`, its hash mended: only verify can tell."""
    shutil.copytree(bundle, copy)
    model = onnx.load(copy / file, load_external_data=False)
    change(model.graph)
    (copy / file).write_bytes(model.SerializeToString())
    data = json.loads((copy / "manifest.json").read_text())
    data["files"][file] = {"sha256": hash_file(copy / file), "bytes": (copy / file).stat().st_size}
    (copy / "manifest.json").write_text(json.dumps(data))
    return copy


def nudge(graph: onnx.GraphProto) -> None:
    """What the stem gives to the exits is off by a thousandth, as a few values on the edges of bytes would make it."""
    sums = next(node for node in graph.node if "t1" in node.output)
    sums.output[list(sums.output).index("t1")] = "exact"
    graph.initializer.append(numpy_helper.from_array(np.array(1.001, np.float32), "nudge"))
    graph.node.append(helper.make_node("Mul", ["exact", "nudge"], ["t1"], name="nudge"))


def spoil_a_scale(graph: onnx.GraphProto) -> None:
    """The bytes of the first quantized tensor are read by twice their scale."""
    made = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    scale = next(i for i in graph.initializer if i.name == made.input[1])
    graph.initializer.append(numpy_helper.from_array(2 * numpy_helper.to_array(scale), "spoiled"))
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == made.output[0]:
            node.input[1] = "spoiled"


def test_right_engines_pass_and_each_step_is_told(bundle):
    report = verify(bundle, threads=1)
    assert report.passed, report.lines()
    for check in report.checks:
        assert check.steps is not None and list(check.steps) == ["dense0", "exits.2", "exits.4", "dense1"]
        assert {step.allowed for step in check.steps.values()} <= {1e-5, 1 / 127, 2 / 127, 3 / 127}
        assert all(step.error <= step.allowed for step in check.steps.values()) and "exits.4" in check.line()


def test_what_a_discontinuity_makes_of_a_small_error_is_told_and_passes(bundle, tmp_path):
    report = verify(edited(bundle, tmp_path / "copy", "programs/dense0.onnx", nudge), threads=1)
    for check in report.checks:
        assert check.steps is not None and check.passed
        assert 5e-4 < check.steps["dense0"].error < 5e-3 and check.max_rel_error > 0.1


@pytest.mark.parametrize("step", ["dense0", "exits4", "dense1"])
def test_a_wrong_scale_in_any_engine_fails_and_its_step_is_named(bundle, tmp_path, capsys, step):
    """Also of a stage that no image of these reaches."""
    copy = edited(bundle, tmp_path / "copy", f"programs/{step}.onnx", spoil_a_scale)
    assert main(["verify", str(copy), "--json", "--threads", "1"]) == 1
    report = json.loads(capsys.readouterr().out)
    steps = [step for check in report["checks"] for step in check["steps"].items()]
    wrong = {name for name, found in steps if found["error"] > found["allowed"]}
    assert wrong == {step.replace("exits", "exits.")}


def test_steps_count_in_place_of_the_answer():
    checks = [ImageCheck("a", 0, 0, 0, {"y": 0.5})]
    assert not summarize("auto", checks, 0.1).passed
    right, wrong = StepCheck(0.05, 0.1), StepCheck(0.11, 0.1)
    assert summarize("auto", checks, 0.1, steps={"dense0": right}).passed
    assert not summarize("auto", checks, 0.1, steps={"dense0": right, "dense1": wrong}).passed
