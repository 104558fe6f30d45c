"""Models in float16 and bfloat16, computed in float32: their values, not better ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from foveate.pipeline.lean import lean
from foveate.pipeline.lower_precision import KINDS, lower_precision
from foveate.pipeline.rounding import in_float32
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

UNIT = {"fp16": 2.0**-11, "bf16": 2.0**-8}  # of rounding


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return {n: np.asarray(v) for n, v in zip(names, session.run(names, {"images": x}), strict=True)}


@pytest.mark.parametrize("precision", KINDS)
def test_every_result_is_rounded_and_sums_are_not(precision):
    """Three products with a Tanh between, as numpy computes them."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(64, 64)).astype(np.float32) / 8
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]>\n'
        "g (float[n, 64] images) => (float[n, 64] y) { a = MatMul (images, w)\n b = Tanh (a)\n c = MatMul (b, w)\n"
        " y = Add (c, b) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    x = rng.normal(size=(8, 64)).astype(np.float32)
    kind = helper.tensor_dtype_to_np_dtype(KINDS[precision])

    def low(values: np.ndarray) -> np.ndarray:
        return values.astype(kind).astype(np.float32)

    b = low(np.tanh(low(low(x) @ low(w))))
    expected = low(low(b @ low(w)) + b)
    found = run(in_float32(lower_precision(model, precision), precision), x)["y"]
    # Sums in another order may round the other way: by one step, and rarely.
    assert np.mean(found == expected) > 0.98 and np.allclose(
        found, expected, rtol=0, atol=4 * UNIT[precision]
    )
    exact = run(model, x)["y"]
    assert np.abs(expected - exact).max() > 4 * np.abs(found - expected).max()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_programs_in_float16_are_as_far_off_as_onnxruntime_s(random_program, data):
    program = lean(random_program(data.draw, data.draw(st.integers(1, 4)), masked=False))
    lower = lower_precision(program, "fp16")
    image = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 4, 24, 24)).astype(np.float32)
    theirs, ours = run(lower, image), run(in_float32(lower, "fp16"), image)
    assert not any(i.data_type in KINDS.values() for i in in_float32(lower, "fp16").graph.initializer)
    for name, value in theirs.items():
        scale = float(np.abs(value).max(initial=0)) or 1.0
        assert np.abs(ours[name] - value).max() / scale < 0.05
