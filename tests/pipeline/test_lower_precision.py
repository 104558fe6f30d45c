"""Casts: the same answer in fewer bits, the same types at the borders, and float32 where it matters."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from foveate.pipeline.assemble import WHOLE
from foveate.pipeline.build import build
from foveate.pipeline.lean import lean
from foveate.pipeline.lower_precision import between, decision_tensors, lower_precision, tensors_made_lower
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from ..early_exits import exit_program


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """By tensor; raises where two types meet that do not fit."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    graph = inferred.graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return found | {i.name: i.data_type for i in graph.initializer}


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return {name: np.asarray(v) for name, v in zip(names, session.run(names, feeds), strict=True)}


def graph(text: str, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (weights or {}).items())
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
    return model


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_programs_answer_the_same_in_fewer_bits(random_program, data):
    from foveate.pipeline.lean import lean

    program = lean(random_program(data.draw, data.draw(st.integers(1, 5))))
    lower = lower_precision(program, "fp16")
    before, after = types_of(program), types_of(lower)
    for value in (*program.graph.input, *program.graph.output):
        assert after[value.name] == before[value.name]
    image = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 4, 24, 24)).astype(np.float32)
    expected, found = run(program, {"images": image}), run(lower, {"images": image})
    assert list(expected) == list(found)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and np.isfinite(found[name]).all()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_borders_that_are_named_are_in_the_lower_type(random_program, data):
    """Cut anywhere, two halves that hand over float16 answer as the whole does."""
    program = lean(random_program(data.draw, data.draw(st.integers(2, 4)), masked=False))
    made = sorted(tensors_made_lower(program, "fp16") - {o.name for o in program.graph.output})
    image = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 4, 24, 24)).astype(np.float32)
    whole = run(lower_precision(program, "fp16"), {"images": image})
    if not made:
        return
    cut = data.draw(st.sampled_from(made))
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.CopyFrom(program)
    second.CopyFrom(program)
    del first.graph.output[:]
    border = onnx.helper.make_tensor_value_info(cut, TensorProto.FLOAT, None)
    first.graph.output.append(border)
    producer = next(node for node in second.graph.node if cut in node.output)
    if len(producer.output) > 1:
        return
    second.graph.node.remove(producer)
    second.graph.input.append(border)
    lower = [lower_precision(part, "fp16", borders=[cut]) for part in (first, second)]
    for part in lower:
        (value,) = [v for v in (*part.graph.input, *part.graph.output) if v.name == cut]
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT16
    handed = run(lower[0], {"images": image})[cut]
    found = run(lower[1], {"images": image, cut: handed})
    assert handed.dtype == np.float16
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-2 * max(np.abs(value).max(), 1e-3))


def test_weights_are_stored_once_in_the_lower_type():
    weights = {"w": np.ones((4, 4), np.float32), "v": np.ones(4, np.float32)}
    model = graph(
        "g (float[n, 4] x) => (float[n, 4] y, float[4] z) { a = MatMul (x, w)\n y = Add (a, v)\n z = Exp (v) }",
        weights,
    )
    made = lower_precision(model, "fp16")
    kinds = {i.name: i.data_type for i in made.graph.initializer}
    assert kinds == {"w.fp16": TensorProto.FLOAT16, "v.fp16": TensorProto.FLOAT16, "v": TensorProto.FLOAT}
    assert [i.name for i in model.graph.initializer] == ["w", "v"]  # left as it was


def test_sampling_locations_and_the_product_that_makes_them_stay_float32():
    weights = {"w": np.ones((2, 2), np.float32), "k": np.ones((3, 3, 1, 1), np.float32)}
    text = """g (float[1, 3, 8, 8] x, float[1, 4, 4, 2] q) => (float[1, 3, 4, 4] y) {
        v = Conv (x, k)
        m = MatMul (q, w)
        o = Mul (m, m)
        grid = Sub (o, q)
        s = GridSample (v, grid)
        y = Conv (s, k)
    }"""
    types = types_of(lower_precision(graph(text, weights), "fp16"))
    assert all(types[name] == TensorProto.FLOAT for name in ("m", "o", "grid", "s", "y"))
    assert types["v.fp16"] == types["y.fp16"] == TensorProto.FLOAT16


def test_what_becomes_an_index_stays_float32():
    weights = {"w": np.ones((2, 2), np.float32)}
    text = """g (float[4, 2] q, float[9, 2] table) => (float[4, 2, 2] y) {
        m = MatMul (q, w)
        low = Floor (m)
        i = Cast <to = 7> (low)
        rest = Sub (m, low)
        y = Gather (table, i)
    }"""
    types = types_of(lower_precision(graph(text, weights), "fp16"))
    assert types["m"] == types["low"] == types["rest"] == TensorProto.FLOAT and "m.fp16" not in types


def test_norms_keep_their_statistics_and_products_behind_them_do_not():
    weights = {"w": np.eye(4, dtype=np.float32), "s": np.ones(4, np.float32)}
    text = """g (float[n, 4] x) => (float[n, 4] y) {
        a = MatMul (x, w)
        b = LayerNormalization (a, s)
        c = MatMul (b, w)
        y = Gelu (c)
    }"""
    types = types_of(lower_precision(graph(text, weights), "fp16"))
    assert types["a.fp16"] == types["b.fp16"] == types["y.fp16"] == TensorProto.FLOAT16
    assert types["b"] == TensorProto.FLOAT


def test_weights_beyond_the_range_of_float16_stay_float32_and_masks_stay_finite():
    weights = {"w": np.full((4, 4), 1e6, np.float32), "v": np.eye(4, dtype=np.float32)}
    weights["never"] = np.array(-3.4e38, np.float32)
    text = """g (float[1, 4] x) => (float[1, 4] y, float[1, 4] z) {
        y = MatMul (x, w)
        a = MatMul (x, v)
        m = Greater (x, never)
        b = Where (m, never, a)
        z = Softmax (b)
    }"""
    model = graph(text, weights)
    lower = lower_precision(model, "fp16")
    found = run(lower, {"x": np.full((1, 4), 0.25, np.float32)})
    assert np.allclose(found["y"], 1e6) and np.allclose(found["z"], 0.25)
    assert types_of(lower)["a.fp16"] == TensorProto.FLOAT16
    assert "w.bf16" in {i.name for i in lower_precision(model, "bf16").graph.initializer}


def off(text: str, weights: dict[str, np.ndarray]) -> float:
    """How far float16's answer is from float32's, of its largest value."""
    model, x = graph(text, weights), np.array([[[[0, 0.5], [1, 2]]]], np.float32)
    expected, found = (run(m, {"x": x})["y"] for m in (model, lower_precision(model, "fp16")))
    assert np.isfinite(expected).all()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


BODY = "g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) {{ c = Conv (x, w)\n {} }}"
HELD = {
    "a large factor": "y = Mul (c, k)",
    "a large factor of a node": "l = Constant <value_float = 1e6> ()\n y = Mul (c, l)",
    "a large divisor": "y = Div (c, k)",
    "a large minuend": "y = Sub (k, c)",
    "a large slope": "n = Neg (c)\n y = PRelu (n, k)",
    "a sum that is divided by": "d = Add (c, e)\n y = Div (c, d)",
    "one of a node": "f = Constant <value = float {1e-8}> ()\n d = Add (c, f)\n y = Div (c, d)",
    "a maximum that is divided by": "d = Max (c, e)\n y = Div (c, d)",
    "a bound that is divided by": "d = Clip (c, e)\n y = Div (c, d)",
    "a reciprocal": "d = Add (c, e)\n r = Reciprocal (d)\n y = Mul (c, r)",
    "a small factor": "y = Mul (c, e)",
}


@pytest.mark.parametrize("rest", HELD.values(), ids=HELD)
def test_constants_that_float16_has_not_keep_their_nodes_in_float32(rest):
    weights = {"w": np.full((1, 1, 1, 1), 1e-4), "k": np.array(1e6), "e": np.array(1e-8)}
    assert off(BODY.format(rest), {k: v.astype(np.float32) for k, v in weights.items()}) < 2e-2


def test_constants_of_branches_are_held_as_others_are():
    """Of two branches that give one name to constants of their own, each keeps its own."""
    branch = (
        "{0} () => (float[1, 1, 2, 2] z{0}) {{ l = Constant <value_float = {1}> ()\n z{0} = Mul (c, l) }}"
    )
    chosen = f"y = If (b) <then_branch = {branch.format('t', 1e6)}, else_branch = {branch.format('e', 3.0)}>"
    text = BODY.format(f"m = ReduceMax <keepdims = 0> (x)\n b = Greater (m, k)\n {chosen}")
    for border in (1.0, 3.0):
        assert off(text, {"w": np.ones((1, 1, 1, 1), np.float32), "k": np.array(border, np.float32)}) < 2e-2


def test_biases_beside_zero_and_divisors_that_are_held_stay_in_the_lower_type():
    weights = {"w": np.eye(4), "v": np.array([1, 1e-6, 0, -1]), "d": np.array(8.0)}
    text = """g (float[1, 4] x) => (float[1, 4] y) {
        a = MatMul (x, w)
        b = Add (a, v)
        y = Div (b, d)
    }"""
    model = graph(text, {k: v.astype(np.float32) for k, v in weights.items()})
    assert {"a.fp16", "b.fp16", "y.fp16"} <= set(types_of(lower_precision(model, "fp16")))


def test_of_bfloat16_only_the_largest_numbers_are_too_large():
    weights = {"w": np.eye(4), "most": np.array(-3.4028235e38), "e": np.array(1e-8), "k": np.array(1e6)}
    text = """g (float[1, 4] x) => (float[1, 4] y, float[1, 4] z) {
        a = MatMul (x, w)
        b = Max (a, most)
        c = Mul (b, k)
        d = Add (c, e)
        y = Div (c, d)
        z = Mul (a, most)
    }"""
    made = lower_precision(graph(text, {k: v.astype(np.float32) for k, v in weights.items()}), "bf16")
    types = types_of(made)
    assert {"a.bf16", "b.bf16", "c.bf16", "d.bf16", "y.bf16"} <= set(types) and "z.bf16" not in types
    (most,) = [numpy_helper.to_array(i) for i in made.graph.initializer if i.name == "most.bf16"]
    assert np.isfinite(most.astype(np.float32))


@pytest.fixture(scope="module")
def exits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    return build(exit_program(folder / "exits.onnx"), folder / "bundle", sample=(1, 3, 32, 32), layout="if")


def test_decisions_are_made_in_float32_and_agree(tmp_path):
    program = exit_program(tmp_path / "exits.onnx", mask=True)
    bundle = build(program, tmp_path / "bundle", sample=(1, 3, 32, 32), layout="if")
    decided = decision_tensors(onnx.load(bundle / "programs/program.onnx"))
    model = onnx.load(bundle / WHOLE)
    kept = between(model.graph, *decided)
    assert {"mask0.keep", "mask0.logits", "depth"} <= kept and "images" not in kept and "r" not in kept
    lower = lower_precision(model, "fp16", kept)
    types = types_of(lower)
    assert all(types[name] == TensorProto.FLOAT for name in kept if name in types and f"{name}.fp16" in types)
    made = {o for node in lower.graph.node if node.op_type != "Cast" for o in node.output}
    assert not any(f"{name}.fp16" in made for name in kept)
    images = (
        np.random.default_rng(0).normal(size=(8, 3, 32, 32)) * np.linspace(0.2, 3, 8)[:, None, None, None]
    )
    feeds = {"images": images.astype(np.float32)}
    expected, found = run(model, feeds), run(lower, feeds)
    assert np.mean(expected["mask0.keep"] == found["mask0.keep"]) > 0.99
    assert np.mean(expected["depth"] == found["depth"]) > 0.8 and len(set(expected["depth"])) > 1


def test_branches_read_and_answer_in_one_type(exits):
    model = onnx.load(exits / "programs/exits.onnx")
    lower = lower_precision(model, "fp16")
    assert sum(node.op_type == "If" for node in lower.graph.node) == 2
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    expected, found = run(model, {"images": images}), run(lower, {"images": images})
    same = expected["depth"] == found["depth"]
    assert same.any() and np.allclose(expected["classes"][same], found["classes"][same], atol=0.05)
