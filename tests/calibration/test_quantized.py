"""What the quantizer makes of programs: where bytes stand, what stays in floats, and that all engines agree on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.calibration.layers import decided_tensors, layers_of
from foveate.calibration.quantized import KINDS, measure_ranges, quantized
from foveate.export.program import check_model, load_program, save_program
from foveate.pipeline.as_written import with_float_weights
from foveate.pipeline.dense import Dense, DenseSettings
from foveate.runtime.errors import InputError, ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ..early_exits import exit_program

RNG = np.random.default_rng(0)
IMAGES = [RNG.standard_normal((1, 3, 24, 24)).astype(np.float32) for _ in range(4)]


def feeds(images=IMAGES):
    return ({"images": image} for image in images)


def made(path: Path, kind: str = "int8", floats: tuple[str, ...] = ()) -> onnx.ModelProto:
    program = load_program(path)
    layers = layers_of(program)
    low = [layer.name for layer in layers if layer.name not in floats]
    return quantized(program, measure_ranges(program, layers, feeds()), low, kind)


def run(model: onnx.ModelProto, folder: Path, tensors=(), image=IMAGES[0]) -> dict[str, np.ndarray]:
    path = save_program(model, folder / "run.onnx")
    return Dense(path, 1, DenseSettings(exact=True), tensors)(image)


def test_what_is_written_is_what_all_engines_take(make_program):
    """Symmetric bytes, a scale for each channel of the weights, biases in floats (TensorRT takes nothing else)."""
    model = made(make_program())
    check_model(model, "made")
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert nodes and all(values[n.input[2]].dtype == np.int8 and not values[n.input[2]].any() for n in nodes)
    weights = [n for n in nodes if n.input[0] in values]
    assert len(weights) == 4 and all(values[n.input[0]].dtype == np.int8 for n in weights)
    assert [values[n.input[1]].size for n in weights] == [8, 8, 8, 4]
    assert all(np.abs(values[n.input[0]].astype(int)).max() == 127 for n in weights)


def test_scales_are_the_largest_number_over_127(make_program):
    program = load_program(make_program(masks=0))
    layers = layers_of(program)
    ranges = measure_ranges(program, layers, feeds())
    assert ranges["images"] == (float(min(i.min() for i in IMAGES)), float(max(i.max() for i in IMAGES)))
    model = quantized(program, ranges, [layer.name for layer in layers])
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    largest = max(abs(end) for end in ranges["images"])
    assert values["images_scale"] == pytest.approx(largest / 127, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_read_floats_and_keep_names_choices_and_bodies(make_program, tmp_path, kind):
    path = make_program(masks=2)
    before, after = load_program(path), made(path, kind)
    save_program(after, tmp_path / "after.onnx")
    after = load_program(tmp_path / "after.onnx")
    assert [f.name for f in after.functions] == ["EnergyMask"]
    assert [i.name for i in after.graph.input] == [i.name for i in before.graph.input]
    masks = [[n for n in model.graph.node if n.op_type == "EnergyMask"] for model in (before, after)]
    assert [list(n.input) for n in masks[1]] == [list(n.input) for n in masks[0]]
    decided = dict(decided_tensors(before))
    keeps = [run(model, tmp_path, list(decided.values())) for model in (before, after)]
    for name in decided.values():
        assert (keeps[0][name] == keeps[1][name]).mean() > 0.97


def test_a_mask_over_unquantized_features_does_not_flip(make_program, tmp_path):
    """Only what stands before a mask can flip it."""
    path = make_program()
    first = layers_of(load_program(path))[0].name
    before, after = load_program(path), made(path, floats=(first,))
    keeps = [run(model, tmp_path, ["mask0.keep", "relu0"]) for model in (before, after)]
    np.testing.assert_array_equal(keeps[0]["mask0.keep"], keeps[1]["mask0.keep"])
    assert (keeps[0]["relu0"] != keeps[1]["relu0"]).any()


def test_a_program_with_exits_keeps_them(tmp_path):
    path = exit_program(tmp_path / "exits.onnx", mask=True, sampled=True)
    before, after = load_program(path), made(path)
    domain = [
        [(n.op_type, list(n.input), list(n.output)) for n in model.graph.node if n.domain]
        for model in (before, after)
    ]
    assert domain[0] == domain[1] and len(domain[0]) > 5
    answers = [run(model, tmp_path) for model in (before, after)]
    assert answers[0]["depth"] == answers[1]["depth"]
    assert (
        np.abs(answers[1]["classes"] - answers[0]["classes"]).max()
        < 0.2 * np.abs(answers[0]["classes"]).max()
    )


def test_what_serves_a_decision_alone_is_no_layer(tmp_path):
    """A gate behind layers of its own."""
    path = exit_program(tmp_path / "exits.onnx")
    model = onnx.load(path)
    gate = next(n for n in model.graph.node if n.op_type == "ExitGate")
    model.graph.initializer.append(numpy_helper.from_array(np.eye(6, dtype=np.float32), "eye"))
    place = list(model.graph.node).index(gate)
    model.graph.node.insert(place, helper.make_node("MatMul", [gate.input[0], "eye"], ["own"], name="own"))
    model.graph.node[place + 1].input[0] = "own"
    assert "own" not in {layer.name for layer in layers_of(model)}


def test_a_layer_in_floats_reads_floats_though_another_quantizes_what_it_reads(tmp_path):
    weight = numpy_helper.from_array(RNG.standard_normal((3, 3, 1, 1)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], [name], name=name) for name in ("a", "b")],
        "twins",
        [helper.make_tensor_value_info("images", 1, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info(name, 1, ["n", 3, "h", "w"]) for name in ("a", "b")],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "twins.onnx")
    answers = run(made(tmp_path / "twins.onnx", floats=("b",)), tmp_path)
    exact = run(model, tmp_path)
    np.testing.assert_array_equal(answers["b"], exact["b"])
    assert (answers["a"] != exact["a"]).any()


def test_an_output_that_a_layer_reads_too_is_put_out_as_it_was(tmp_path):
    graph = helper.make_graph(
        [
            helper.make_node("Sin", ["images"], ["x"], name="sin"),
            helper.make_node("Conv", ["x", "w"], ["y"], name="c"),
        ],
        "peek",
        [helper.make_tensor_value_info("images", 1, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info(name, 1, ["n", 3, "h", "w"]) for name in ("x", "y")],
        [numpy_helper.from_array(RNG.standard_normal((3, 3, 1, 1)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "peek.onnx")
    answers = run(made(tmp_path / "peek.onnx"), tmp_path)
    assert list(answers) == ["x", "y"]
    np.testing.assert_allclose(answers["x"], np.sin(IMAGES[0]), rtol=1e-5, atol=1e-6)


def test_float8_holds_the_largest_number_and_keeps_relus(make_program, tmp_path):
    """E4M3 has steps of an eighth between powers of two: an error of a sixteenth of each value at most."""
    path = make_program(masks=0)
    model = made(path, "fp8")
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    original = {i.name: numpy_helper.to_array(i) for i in load_program(path).graph.initializer}
    floats = {i.name: numpy_helper.to_array(i) for i in with_float_weights(model).graph.initializer}
    for name in ("stem.weight", "head.weight"):
        found, wanted = floats[f"{name}_DequantizeLinear_Output"], original[name]
        assert np.abs(np.asarray(values[f"{name}_quantized"], np.float32)).max() == 448
        assert np.abs(found - wanted).max() <= np.abs(wanted).max() / 16
    before, after = run(load_program(path), tmp_path), run(model, tmp_path)
    # Without its Relus the network would be another one.
    assert np.abs(after["output"] - before["output"]).max() < 0.1 * np.abs(before["output"]).max()


def test_native_kernels_and_onnxruntime_run_what_is_written(build_tiny_bundle, tiny_program, tmp_path):
    """The same Q/DQ program by all engines; what lies on the edge of two bytes may fall to either."""
    from foveate.pipeline.build import build
    from foveate.pipeline.costs import CostModel
    from foveate.pipeline.verify import verify

    shape = (1, 3, 64, 96)
    program = load_program(tiny_program)
    layers = layers_of(program)
    noise = [np.random.default_rng(n).standard_normal(shape).astype(np.float32) for n in range(2)]
    ranges = measure_ranges(program, layers, feeds(noise))
    path = save_program(quantized(program, ranges, [layer.name for layer in layers]), tmp_path / "q.onnx")
    bundle = build(path, tmp_path / "bundle", sample=shape, model=CostModel(call_ms=0.0))
    plan = json.loads(next((bundle / "programs").glob("region*.json")).read_text())
    assert sum(op["kind"] == "conv_integer" for op in plan["ops"]) == 5
    report = verify(bundle, threads=2)
    assert {check.strategy for check in report.checks} == {"spans", "rects", "auto"}
    assert report.passed, report.lines()


def two_convs(path: Path, seed: int) -> Path:
    """images [batch, 3, height, width] -> y: two convolutions with a Relu between."""
    rng = np.random.default_rng(seed)
    shapes = {"w0": (9, 3, 3, 3), "b0": (9,), "w1": (5, 9, 3, 3), "b1": (5,)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["images", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w1", "b1"], ["y"], name="second", pads=[1] * 4),
    ]
    given = helper.make_tensor_value_info("images", 1, ["batch", 3, "height", "width"])
    answer = helper.make_tensor_value_info("y", 1, ["batch", 5, "height", "width"])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "two", [given], [answer], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def integer_conv(image: np.ndarray, values: dict[str, np.ndarray], reads: str, number: int) -> np.ndarray:
    """In whole numbers up to the sums: image float32 [C, H, W] -> float32 [O, H, W]."""
    scale = values[f"{reads}_scale"]
    bytes_ = np.clip(np.rint(image / scale), -128, 127).astype(np.int64)
    patches = np.lib.stride_tricks.sliding_window_view(
        np.pad(bytes_, [(0, 0), (1, 1), (1, 1)]), (3, 3), (1, 2)
    )
    sums = np.einsum("oikl,iyxkl->oyx", values[f"w{number}_quantized"].astype(np.int64), patches)
    by_channel = (values[f"w{number}_scale"] * scale)[:, None, None]
    return sums * by_channel + values[f"b{number}"][:, None, None]


@pytest.mark.parametrize("seed", range(3))
def test_all_engines_are_within_a_byte_of_integer_arithmetic(tmp_path, seed):
    """numpy's whole numbers, the native kernels, onnxruntime as it fuses and as is written: the bytes between two
    layers are equal, but for those on an edge, which differ by one."""
    from foveate.pipeline.build import build
    from foveate.runtime import load

    model = made(two_convs(tmp_path / "floats.onnx", seed))
    path = save_program(model, tmp_path / "two.onnx")
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    first = np.maximum(integer_conv(IMAGES[0][0], values, "images", 0), 0)
    wanted = integer_conv(first, values, "r", 1)
    # What one byte of the second layer's input can change: its step times the largest weight.
    step = float(
        values["r_scale"] * np.abs(values["w1_quantized"] * values["w1_scale"][:, None, None, None]).max()
    )
    bundle = build(path, tmp_path / "bundle", sample=IMAGES[0].shape)
    with load(bundle, threads=2) as opened:
        stream = opened.stream(fallback=False)
        found = {
            "native": stream(IMAGES[0])["y"],
            "onnxruntime": opened(IMAGES[0])["y"],
            "as written": Dense(path, 1, DenseSettings(exact=True))(IMAGES[0])["y"],
        }
    for name, answer in found.items():
        error = np.abs(np.asarray(answer)[0] - wanted)
        assert (error > 1e-4).mean() < 0.1 and error.max() <= 2.01 * step, (name, error.max(), step)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    spread=st.floats(1e-3, 1e3),
    ends=st.tuples(st.floats(-100, 0), st.floats(0.01, 100)),
)
def test_rounding_is_by_half_a_step_at_most(tmp_path_factory, kind, seed, spread, ends):
    """Of weights, channel by channel, and of what lies within the range that was seen."""
    folder = tmp_path_factory.mktemp("round")
    program = load_program(two_convs(folder / "two.onnx", seed))
    tensor = next(i for i in program.graph.initializer if i.name == "w0")
    weights = numpy_helper.to_array(tensor) * np.float32(spread)
    tensor.CopyFrom(numpy_helper.from_array(weights, "w0"))
    model = quantized(program, {"images": ends, "r": (0.0, 1.0)}, ["first"], kind)
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    scale = float(values["images_scale"])
    assert scale * (127 if kind == "int8" else 448) == pytest.approx(max(-ends[0], ends[1]), rel=1e-5)
    floats = {i.name: numpy_helper.to_array(i) for i in with_float_weights(model).graph.initializer}
    error = np.abs(floats["w0_DequantizeLinear_Output"] - weights)
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    half = largest / 254 if kind == "int8" else np.maximum(np.abs(weights) / 16, largest / 448 / 2**7)
    assert (error <= half * 1.01).all()


def test_ranges_that_are_no_numbers_are_named(make_program):
    program = load_program(make_program())
    bad = IMAGES[0].copy()
    bad[0, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match="image 2: got NaN"):
        measure_ranges(program, layers_of(program), feeds([*IMAGES[:2], bad]))
    stem = next(i for i in program.graph.initializer if i.name == "stem.weight")
    stem.CopyFrom(numpy_helper.from_array(np.full(list(stem.dims), np.inf, np.float32), stem.name))
    with pytest.raises(InputError, match="range of masked0"):
        measure_ranges(program, layers_of(program), feeds())
    with pytest.raises(InputError, match="no image"):
        measure_ranges(program, layers_of(program), feeds([]))


def test_a_quantized_program_is_not_quantized_again(make_program):
    with pytest.raises(ProgramError, match="QuantizeLinear"):
        layers_of(made(make_program()))


def test_a_program_without_weights_says_so(tmp_path):
    given = helper.make_tensor_value_info("images", 1, ["batch", 3, "height", "width"])
    answer = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["y"])], "plain", [given], [answer])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ProgramError, match="no Conv"):
        layers_of(model)
