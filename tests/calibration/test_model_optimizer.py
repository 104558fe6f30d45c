"""NVIDIA ModelOpt as the quantizer: its ranges, written by the rules of all engines."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.calibration import model_optimizer
from foveate.calibration.layers import layers_of
from foveate.calibration.model_optimizer import modelopt_program, modelopt_ranges, ranges_in
from foveate.calibration.precision import calibrate_precision
from foveate.calibration.quantized import measure_ranges, quantized
from foveate.export.program import load_program, save_program
from foveate.pipeline.cli.main import main
from foveate.pipeline.dense import Dense, DenseSettings
from foveate.runtime.errors import EngineError, InputError, MissingExtraError
from onnx import helper, numpy_helper

IMAGES = [np.random.default_rng(n).standard_normal((1, 3, 24, 32)).astype(np.float32) for n in range(3)]


def feeds():
    return ({"images": image} for image in IMAGES)


def answers(model: onnx.ModelProto, path: Path) -> np.ndarray:
    onnx.save(model, path)
    return Dense(path, 1, DenseSettings(exact=True))(IMAGES[0])["output"]


def wide_program(path: Path) -> Path:
    """images -> output by three convolutions of 48 channels, which ModelOpt quantizes to either type."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "images"
    for number, (inputs, outputs) in enumerate([(3, 48), (48, 48), (48, 48)]):
        shape = (outputs, inputs, 3, 3)
        weight = rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(9 * inputs))
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        conv, made = f"c{number}", "output" if number == 2 else f"r{number}"
        nodes += [
            helper.make_node("Conv", [last, f"w{number}"], [conv], name=conv, pads=[1] * 4),
            helper.make_node("Relu", [conv], [made], name=made),
        ]
        last = made
    given = helper.make_tensor_value_info("images", 1, ["batch", 3, "height", "width"])
    answer = helper.make_tensor_value_info("output", 1, ["batch", 48, "height", "width"])
    graph = helper.make_graph(nodes, "wide", [given], [answer], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("kind", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_what_is_written_computes_what_modelopts_own_program_does(tmp_path, kind):
    """Its ranges cut off no more of int8 than entropy gains by, and nothing of fp8. Its own program of fp8 is not run:
    onnxruntime drops Relus ahead of float8."""
    program = load_program(wide_program(tmp_path / "wide.onnx"))
    layers = layers_of(program)
    made = modelopt_program(program, layers, feeds(), kind)
    ranges = ranges_in(made, layers, kind)
    most = measure_ranges(program, layers, feeds())
    assert ranges and ranges.keys() <= most.keys()
    for name, (low, high) in ranges.items():
        share = high / max(-most[name][0], most[name][1])
        assert low == -high and (0.3 if kind == "int8" else 0.99) < share < 1.01
    low = [layer.name for layer in layers if layer.reads in ranges]
    written = quantized(program, ranges, low, kind)
    ours = answers(load_program(save_program(written, tmp_path / "written.onnx")), tmp_path / "ours.onnx")
    exact = answers(program, tmp_path / "exact.onnx")
    scale = np.abs(exact).max()
    assert 1e-4 * scale < np.abs(ours - exact).max() < 0.2 * scale
    if kind == "int8":
        theirs = answers(made, tmp_path / "theirs.onnx")
        assert np.abs(ours - theirs).max() < 0.02 * scale


def calibrated(scale=0.5, zero=0) -> onnx.ModelProto:
    """Layer c with its input and weights in Q/DQ, layer f in floats."""
    tensors = {
        "w": np.ones((4, 3, 1, 1), np.int8),
        "sw": np.ones(4, np.float32),
        "zw": np.zeros(4, np.int8),
        "s": np.asarray(scale, np.float32),
        "z": np.full(np.shape(scale), zero, np.int8),
        "wf": np.ones((4, 4, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["dw"], axis=0),
        helper.make_node("Conv", ["d", "dw"], ["y"], name="c"),
        helper.make_node("Conv", ["y", "wf"], ["output"], name="f"),
    ]
    given = helper.make_tensor_value_info("images", 1, [1, 3, 8, 8])
    answer = helper.make_tensor_value_info("output", 1, None)
    initial = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    return helper.make_model(helper.make_graph(nodes, "calibrated", [given], [answer], initial))


LAYERS = [model_optimizer.Layer("c", "Conv", "images", 1.0), model_optimizer.Layer("f", "Conv", "y", 1.0)]


def test_a_range_is_what_the_scale_holds_and_layers_in_floats_have_none():
    assert ranges_in(calibrated(), LAYERS, "int8") == {"images": (-63.5, 63.5)}


@pytest.mark.parametrize(("made", "got"), [({"zero": 3}, "zero point"), ({"scale": [0.5] * 3}, "3 scales")])
def test_what_is_not_symmetric_is_named(made, got):
    with pytest.raises(InputError, match=f"tensor images: got .*{got}"):
        ranges_in(calibrated(**made), LAYERS, "int8")


def test_without_it_the_extra_is_named(make_program, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "modelopt" else find(name))
    program = load_program(make_program())
    with pytest.raises(MissingExtraError, match=r"foveate\[modelopt\]"):
        modelopt_ranges(program, layers_of(program), feeds())


def test_what_goes_wrong_in_it_is_told(make_program, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ValueError: no' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    program = load_program(make_program())
    with pytest.raises(EngineError, match="got ValueError: no"):
        modelopt_ranges(program, layers_of(program), feeds())


def test_layers_that_it_leaves_out_stay_in_floats(make_program, monkeypatch, tmp_path):
    """With ranges of the other quantizer in place of its own."""
    np.save(tmp_path / "images.npy", np.concatenate(IMAGES * 4))

    def partial(program, layers, feeds, kind, tick):
        return measure_ranges(program, layers[:-1], feeds, tick)

    monkeypatch.setattr(model_optimizer, "modelopt_ranges", partial)
    program = make_program(masks=0)
    found, path = calibrate_precision(program, tmp_path / "images.npy", quantizer="modelopt")
    *low, left = found.layers
    assert {layer.precision for layer in low} == {"int8"} and found.quantizer == "modelopt"
    assert (left.precision, left.why) == ("float", "left out by modelopt") and 0 < found.work < 1
    assert sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node) == len(low)
    again, _ = calibrate_precision(program, tmp_path / "images.npy")
    assert again.work == pytest.approx(1.0)  # what was measured by one quantizer is of no use for another


def test_the_command_line_wants_a_precision_for_it(make_program, tmp_path, capsys):
    np.save(tmp_path / "images.npy", IMAGES[0])
    code = main(
        ["calibrate", str(make_program()), "--data", str(tmp_path / "images.npy"), "--quantizer", "modelopt"]
    )
    assert code == 2 and "--precision with them" in capsys.readouterr().err
