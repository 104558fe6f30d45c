"""Each operator in torch computes what onnxruntime does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from foveate.runtime.errors import EngineError
from foveate.runtime.onnx_torch.program import TorchProgram
from foveate.runtime.onnx_torch.tape import unknown
from hypothesis import given, settings
from hypothesis import strategies as st

from ...operator_programs import IMAGE, ONE_NODE, operator_program


def both(path: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """torch's answer, of a second run, and onnxruntime's."""
    torched = TorchProgram(path, torch.device("cpu"))
    torched({"x": torch.ones(x.shape)}, ["y"])  # recorded with other values
    (found,) = torched({"x": torch.from_numpy(x)}, ["y"])
    (expected,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        ["y"], {"x": x}
    )
    return found.numpy(), np.asarray(expected)


@pytest.mark.parametrize("body", ONE_NODE.values(), ids=ONE_NODE)
def test_it_is_onnxruntimes(body, tmp_path):
    x = np.random.default_rng(0).normal(size=IMAGE).astype(np.float32)
    found, expected = both(operator_program(body, tmp_path), x)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3), st.integers(3, 12), st.integers(3, 12), st.sampled_from(["SAME_UPPER", "SAME_LOWER"])
)
def test_a_program_is_recorded_for_each_shape(tmp_path_factory, batch, height, width, pad):
    body = f'a = Conv <auto_pad = "{pad}", strides = [2, 2]> (x, w)  s = Shape (a)  y = Reshape (a, s)'
    x = np.random.default_rng(0).normal(size=(batch, 4, height, width)).astype(np.float32)
    found, expected = both(operator_program(body, tmp_path_factory.mktemp("p")), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_it_does_not_know_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"node .*NonZero.*operators that this backend knows"):
        both(operator_program("n = NonZero (x)  y = Cast <to = 1> (n)", tmp_path), np.ones(IMAGE, np.float32))


def test_what_is_unknown_is_found_also_in_functions_and_branches():
    text = """<ir_version: 10, opset_import: ["": 20, "own": 1]>
    g (float[n] x, bool b) => (float[n] y) {
        s = Shape (x)
        f = own.F (x)
        z = If (b) <then_branch = t () => (float[n] p) { p = LRN <size = 3> (f) },
                    else_branch = e () => (float[n] q) { q = Neg (f) }>
        y = other.Relu (z)
    }
    <domain: "own", opset_import: ["": 20]> F (a) => (c) { k = Softsign (a)  c = Relu (k) }"""
    model = onnx.parser.parse_model(text)
    eight = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [], [0])
    model.graph.initializer.append(eight)
    assert set(unknown(model)) == {
        ("tensor zero", "FLOAT8E4M3FN"),
        ("node p", "ai.onnx::LRN"),
        ("node k", "ai.onnx::Softsign"),
        ("node y", "other::Relu"),
    }


def test_scales_of_blocks_are_refused(tmp_path):
    body = "q = QuantizeLinear <axis = 1> (x, w)  y = DequantizeLinear <axis = 1> (q, w)"
    torched = TorchProgram(operator_program(body, tmp_path), torch.device("cpu"))
    with pytest.raises(EngineError, match="of blocks"):
        torched({"x": torch.ones(IMAGE)}, ["y"])


def test_a_shape_that_depends_on_the_image_is_refused(tmp_path):
    body = (
        "m = ReduceMax <keepdims = 0> (x)  k = Cast <to = 7> (m)  u = Unsqueeze (k, front)  y = Expand (x, u)"
    )
    with pytest.raises(EngineError, match="input 1 that depends on the image"):
        both(operator_program(body, tmp_path), np.ones(IMAGE, np.float32))


def test_a_constant_output_is_the_callers_own(tmp_path):
    path = operator_program("s = Shape (x)  f = Cast <to = 1> (s)  y = Mul (f, high)", tmp_path)
    torched = TorchProgram(path, torch.device("cpu"))
    (first,) = torched({"x": torch.ones(IMAGE)}, ["y"])
    first.zero_()
    (second,) = torched({"x": torch.ones(IMAGE)}, ["y"])
    assert second.tolist() == [1.5, 3.0, 5.25, 6.75]
