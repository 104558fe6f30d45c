"""Programs of single operators, for what runs ONNX files by torch. Each is of an image of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser

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
    "transposed, uneven pads": "y = ConvTranspose <pads = [0, 1, 2, 1], strides = [2, 1], dilations = [1, 2]> "
    "(x, u, five)",
    "average pool, uneven pads": "y = AveragePool <kernel_shape = [2, 3], strides = [2, 1], pads = [0, 1, 1, 0]> (x)",
    "average pool, uneven pads that count": "y = AveragePool <kernel_shape = [2, 3], pads = [0, 1, 1, 0], "
    "count_include_pad = 1> (x)",
    "global pool": "y = GlobalAveragePool (x)",
    "clip": "y = Clip (x, low, high)",
    "resize, sizes": 'y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (x, , , sizes)',
    "resize, corners": 'y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , sizes)',
    "resize, nearest": 'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", '
    'nearest_mode = "floor"> (x, , scales)',
    "resize, antialias": 'y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel", '
    "antialias = 1, exclude_outside = 1> (x, , , smaller)",
    "resize, cubic, antialias": 'y = Resize <mode = "cubic", coordinate_transformation_mode = "half_pixel", '
    "antialias = 1, exclude_outside = 1, cubic_coeff_a = -0.5> (x, , , smaller)",
    "resize, cubic": 'y = Resize <mode = "cubic", coordinate_transformation_mode = "half_pixel"> (x, , , sizes)',
    "grid sample": "y = GridSample <align_corners = 0> (x, grid)",
    "pad": 'y = Pad <mode = "reflect"> (x, pads)',
    "pad, constant": "y = Pad (x, pads, low)",
    "slice": "y = Slice (x, starts, ends, axes, steps)",
    "slice, backwards": "y = Slice (x, last, first, axes, back)",
    "gather elements": "y = GatherElements <axis = 1> (x, deep)",
    "gather": "y = Gather <axis = 1> (x, i)",
    "split": "y, z = Split <axis = 1> (x, parts)",
    "equal parts": "y, z = Split <axis = 3, num_outputs = 2> (x)",
    "reduce": "y = ReduceMean <keepdims = 0> (x, spatial)",
    "reduce squares": "y = ReduceSumSquare (x, spatial)",
    "sum so far": "y = CumSum <exclusive = 1, reverse = 1> (x, three)",
    "softmax": "y = Softmax <axis = 1> (x)",
    "top k": "y, z = TopK <axis = 1> (x, two)",
    "layer norm": "y = LayerNormalization <axis = -1> (x, nine)",
    "instance norm": "y = InstanceNormalization (x, v, v)",
    "batch norm": "y = BatchNormalization (x, v, v, v, var)",
    "group norm": "y = GroupNormalization <num_groups = 2> (x, pair, pair)",
    "gemm": "r = Flatten <axis = 1> (x)  y = Gemm <transB = 1, alpha = 0.5> (r, m, bias)",
    "einsum": 'y = Einsum <equation = "nchw,kcij->nk"> (x, w)',
    "flatten, two": "y = Flatten <axis = 2> (x)",
    "space to depth": "e = Pad (x, even)  s = SpaceToDepth <blocksize = 2> (e)  y = DepthToSpace <blocksize = 2> (s)",
    "depth to space": 'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)',
    "activations": "d = Celu <alpha = 0.5> (x)  e = Selu (d)  f = HardSigmoid (x)  g = Mish (f)  h = Sub (e, g)  "
    "y = PRelu (h, low)",
    "remainder": "d = Mul (x, ten)  r = Mod <fmod = 1> (d, high)  k = Cast <to = 6> (d)  p = Pow (k, two)  "
    "f = Cast <to = 1> (p)  y = Add (r, f)",
    "expand": "s = Shape (x)  e = Expand (low, s)  y = Add (x, e)",
    "expanded sizes": "e = Expand (three, two)  p = Concat <axis = 0> (e, e)  y = Pad (x, p, , spatial)",
    "where": "c = Greater (x, low)  y = Where (c, x, high)",
    "range": "n = Shape <start = 3> (x)  k = Squeeze (n)  r = Range (zero, k, one)  "
    "f = Cast <to = 1> (r)  y = Mul (x, f)",
    "whole numbers": "s = Shape (x)  h = Slice (s, two, three)  d = Div (h, two)  o = Mod (h, three)  p = Concat "
    "<axis = 0> (rest, d, o)  k = ReduceProd <keepdims = 0> (p)  f = Cast <to = 1> (k)  y = Mul (x, f)",
    "padded to a multiple": "s = Shape <start = 2> (x)  r = Mod (s, two)  p = Concat <axis = 0> (none, r)  "
    "y = Pad (x, p)",
    "of a size": "s = Shape (x)  n = Size (x)  t = Slice (s, minus, least, front, minus)  e = Unsqueeze (n, front)  "
    "k = Concat <axis = 0> (t, e)  f = Cast <to = 1> (k)  g = Unsqueeze (f, front)  r = ReduceL2 (g)  y = Mul (x, r)",
    "quantized": "q = QuantizeLinear (x, high, byte)  y = DequantizeLinear (q, high, byte)",
    "quantized, saturated": "q = QuantizeLinear (x, tiny)  y = DequantizeLinear (q, tiny)",
    "quantized, by channel": "q = QuantizeLinear <axis = 1> (x, steps4, bytes)  "
    "y = DequantizeLinear <axis = -3> (q, steps4, bytes)",
    "quantized, halves": "d = Mul (x, ten)  r = Round (d)  q = QuantizeLinear (r, twofold, byte)  "
    "y = DequantizeLinear (q, twofold, byte)",
    "dequantized, whole numbers": "d = Mul (x, ten)  k = Cast <to = 6> (d)  y = DequantizeLinear (k, high)",
    "filled": "s = Shape (x)  z = ConstantOfShape <value = float[1] {2.5}> (s)  y = Add (x, z)",
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
    "ten": np.array(10.0),
    "low": np.array(-0.5),
    "high": np.array(0.75),
    "scales": np.array([1, 1, 2, 3.0]),
    "grid": np.random.default_rng(4).uniform(-1.3, 1.3, (2, 5, 6, 2)),
    "five": np.arange(5) / 5,
    "var": np.array([1.0, 2.0, 0.5, 1.5]),
    "pair": np.array([1.5, -0.5]),
    "even": [0, 0, 0, 0, 0, 0, 1, 1],
    "none": [0, 0, 0, 0, 0, 0],
    "byte": np.int8(-5),
    "bytes": np.array([0, 3, -128, 127], np.int8),
    "tiny": np.array(2.0**-10),
    "steps4": np.array([0.01, 0.5, 2.0, 0.001]),
    "twofold": np.array(2.0),
    "minus": [-1],
    "least": [-(2**63)],
    "deep": np.array([[[[0, -1]], [[2, 1]]], [[[1, 1]], [[-2, 3]]]]),
    "smaller": [2, 4, 5, 4],
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


def operator_program(body: str, folder: Path) -> Path:
    """Of x and what it reads of VALUES, to y."""
    graph = onnx.parser.parse_graph(f"g (float[n, c, h, width] x) => (float y) {{ {body} }}")
    read = {name for node in graph.node for name in node.input}
    for name in VALUES.keys() & read:
        value = np.asarray(VALUES[name])
        if value.dtype != np.int8:
            value = value.astype(np.float32 if value.dtype.kind == "f" else np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "p.onnx")
    return folder / "p.onnx"
