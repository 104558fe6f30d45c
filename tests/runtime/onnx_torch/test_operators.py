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
from hypothesis import given, settings
from hypothesis import strategies as st

IMAGE = (2, 4, 7, 9)
# Of x float32 [2, 4, 7, 9]; w is its kernel [6, 4, 3, 3], v a vector [4], i indices.
ONE_NODE = {
    "conv": "y = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (x, w)",
    "conv, uneven pads": "y = Conv <pads = [0, 1, 2, 1], dilations = [2, 1]> (x, w, b)",
    "conv, same": 'y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)',
    "transposed": "y = ConvTranspose <pads = [1, 1, 1, 1], strides = [2, 2], output_padding = [1, 1]> (x, u)",
    "max pool": "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1> (x)",
    "max pool, wide pads": "y = MaxPool <kernel_shape = [3, 3], pads = [2, 0, 2, 1]> (x)",
    "average pool": "y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], count_include_pad = 1> (x)",
    "global pool": "y = GlobalAveragePool (x)",
    "clip": "y = Clip (x, low, high)",
    "resize, sizes": 'y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (x, , , sizes)',
    "resize, corners": 'y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , sizes)',
    "resize, nearest": 'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", '
    'nearest_mode = "floor"> (x, , scales)',
    "grid sample": "y = GridSample <align_corners = 0> (x, grid)",
    "pad": 'y = Pad <mode = "reflect"> (x, pads)',
    "pad, constant": "y = Pad (x, pads, low)",
    "slice": "y = Slice (x, starts, ends, axes, steps)",
    "slice, backwards": "y = Slice (x, last, first, axes, back)",
    "gather": "y = Gather <axis = 1> (x, i)",
    "split": "y, z = Split <axis = 1> (x, parts)",
    "reduce": "y = ReduceMean <keepdims = 0> (x, spatial)",
    "reduce squares": "y = ReduceSumSquare (x, spatial)",
    "softmax": "y = Softmax <axis = 1> (x)",
    "top k": "y, z = TopK <axis = 1> (x, two)",
    "layer norm": "y = LayerNormalization <axis = -1> (x, nine)",
    "instance norm": "y = InstanceNormalization (x, v, v)",
    "gemm": "r = Flatten <axis = 1> (x)  y = Gemm <transB = 1, alpha = 0.5> (r, m, bias)",
    "einsum": 'y = Einsum <equation = "nchw,kcij->nk"> (x, w)',
    "expand": "s = Shape (x)  e = Expand (low, s)  y = Add (x, e)",
    "where": "c = Greater (x, low)  y = Where (c, x, high)",
    "range": "n = Shape <start = 3> (x)  k = Squeeze (n)  r = Range (zero, k, one)  "
    "f = Cast <to = 1> (r)  y = Mul (x, f)",
    "whole numbers": "s = Shape (x)  h = Slice (s, two, three)  d = Div (h, two)  o = Mod (h, three)  p = Concat "
    "<axis = 0> (rest, d, o)  k = ReduceProd <keepdims = 0> (p)  f = Cast <to = 1> (k)  y = Mul (x, f)",
    "decided by a size": "s = Shape <start = 2, end = 3> (x)  c = Greater (s, two)  q = Squeeze (c)  "
    "y = If (q) <then_branch = a () => (float t) { t = Neg (x) }, else_branch = b () => (float t) { t = Abs (x) }>",
}
VALUES = {
    "w": np.random.default_rng(1).normal(size=(6, 4, 3, 3)),
    "u": np.random.default_rng(2).normal(size=(4, 5, 3, 3)),
    "b": np.arange(6) / 6,
    "v": np.array([1.0, 2.0, 0.5, -1.0]),
    "nine": np.linspace(-1, 1, 9),
    "m": np.random.default_rng(3).normal(size=(3, 252)),
    "bias": np.array([1.0, 2.0, 3.0]),
    "low": np.array(-0.5),
    "high": np.array(0.75),
    "scales": np.array([1, 1, 2, 3.0]),
    "grid": np.random.default_rng(4).uniform(-1.3, 1.3, (2, 5, 6, 2)),
    "sizes": [2, 4, 11, 5],
    "pads": [0, 0, 2, 1, 0, 0, 1, 3],
    "starts": [1, -4],
    "ends": [2**63 - 1, -1],
    "axes": [2, 3],
    "steps": [2, 1],
    "last": [-1, 7],
    "first": [-(2**63), 2],
    "back": [-2, -1],
    "i": [[0, -1], [2, 1]],
    "parts": [1, 3],
    "spatial": [2, 3],
    "two": [2],
    "three": [3],
    "rest": [1],
    "front": [0],
    "zero": np.int64(0),
    "one": np.int64(1),
}


def program(body: str, folder: Path, outputs: tuple[str, ...] = ("y",)) -> Path:
    nodes = onnx.parser.parse_graph(f"g (float[n, c, h, width] x) => (float y) {{ {body} }}")
    read = {name for node in nodes.node for name in node.input}
    for name, value in VALUES.items():
        if name in read:
            kind = np.float32 if isinstance(value, np.ndarray) else np.int64
            nodes.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, kind), name))
    model = onnx.helper.make_model(nodes, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "p.onnx")
    return folder / "p.onnx"


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
    found, expected = both(program(body, tmp_path), x)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3), st.integers(3, 12), st.integers(3, 12), st.sampled_from(["SAME_UPPER", "SAME_LOWER"])
)
def test_a_program_is_recorded_for_each_shape(tmp_path_factory, batch, height, width, pad):
    body = f'a = Conv <auto_pad = "{pad}", strides = [2, 2]> (x, w)  s = Shape (a)  y = Reshape (a, s)'
    x = np.random.default_rng(0).normal(size=(batch, 4, height, width)).astype(np.float32)
    found, expected = both(program(body, tmp_path_factory.mktemp("p")), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_it_does_not_know_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"node .*NonZero.*operators that this backend knows"):
        both(program("n = NonZero (x)  y = Cast <to = 1> (n)", tmp_path), np.ones(IMAGE, np.float32))


def test_a_shape_that_depends_on_the_image_is_refused(tmp_path):
    body = (
        "m = ReduceMax <keepdims = 0> (x)  k = Cast <to = 7> (m)  u = Unsqueeze (k, front)  y = Expand (x, u)"
    )
    with pytest.raises(EngineError, match="input 1 that depends on the image"):
        both(program(body, tmp_path), np.ones(IMAGE, np.float32))


def test_a_constant_output_is_the_callers_own(tmp_path):
    path = program("s = Shape (x)  f = Cast <to = 1> (s)  y = Mul (f, high)", tmp_path)
    torched = TorchProgram(path, torch.device("cpu"))
    (first,) = torched({"x": torch.ones(IMAGE)}, ["y"])
    first.zero_()
    (second,) = torched({"x": torch.ones(IMAGE)}, ["y"])
    assert second.tolist() == [1.5, 3.0, 5.25, 6.75]
