"""Programs that are quantized in the ONNX file become engines of that precision; others are refused by node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foveate.export.program import load_program, save_program
from foveate.pipeline.build import build
from foveate.pipeline.tensorrt.verify_engines import check_engines
from foveate.pipeline.verify import Case
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import InputError
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
RANGES = {"batch": (1, 1, 4), "height": (16, 32, 32), "width": (16, 32, 32)}


def parsed(text: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 19]>\n{text}')
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
    return model


class Images(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        images = (rng.normal(size=(1, 3, 32, 32)).astype(np.float32) for _ in range(4))
        self._left = iter([{"images": image} for image in images])

    def get_next(self) -> Any:
        return next(self._left, None)


def quantized(folder: Path, activations: QuantType, extra: dict[str, bool]) -> Path:
    """Two convolutions and a head, quantized by onnxruntime."""
    rng = np.random.default_rng(0)
    weights = {"w0": rng.normal(size=(16, 3, 3, 3)) / 5, "b0": rng.normal(size=16) / 5}
    weights |= {"w1": rng.normal(size=(32, 16, 3, 3)) / 12, "w2": rng.normal(size=(10, 32)) / 5}
    text = """g (float[batch, 3, height, width] images) => (float[batch, 10] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (images, w0, b0)
        r = Relu (a)
        b = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (r, w1)
        s = Relu (b)
        p = GlobalAveragePool (s)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w2)
    }"""
    onnx.save(parsed(text, weights), folder / "float.onnx")
    options = {"activation_type": activations, "weight_type": QuantType.QInt8, "extra_options": extra}
    paths = str(folder / "float.onnx"), str(folder / "quantized.onnx")
    quantize_static(*paths, Images(), quant_format=QuantFormat.QDQ, per_channel=True, **options)
    return save_program(load_program(folder / "quantized.onnx"), folder / "program.onnx")


def kinds_of(bundle: Path, name: str) -> set[tuple[str, str]]:
    layers = json.loads((bundle / f"engines/{name}.sm89.json").read_text())["layers"]
    return {(layer["kind"], kind) for layer in layers for kind in layer["dtypes"]}


def errors_of(bundle: Path, image: np.ndarray) -> list[float]:
    """Of the engines' models beside their programs."""
    checks = check_engines(bundle, lambda: iter([Case("image", {"images": image}, {})]), threads=1)
    assert all(check.images == 1 and not check.failed for check in checks)
    return [error for check in checks for error in (check.errors or {}).values()]


def test_a_program_in_int8_becomes_engines_in_int8(tmp_path):
    program = quantized(tmp_path, QuantType.QInt8, SYMMETRIC)
    target, sample = "tensorrt:int8@sm89", (1, 3, 32, 32)
    bundle = build(program, tmp_path / "bundle", sample=sample, target=target, ranges=RANGES)
    assert {("QUANTIZE", "INT8"), ("CONVOLUTION", "FLOAT")} <= kinds_of(bundle, "whole")
    assert {engine.precision for engine in open_bundle(bundle).manifest.engines} == {"int8"}
    image = np.random.default_rng(1).normal(size=sample).astype(np.float32)
    assert max(errors_of(bundle, image)) < 1e-2


@pytest.mark.parametrize(
    ("activations", "extra", "said"),
    [
        (QuantType.QUInt8, {"QuantizeBias": False}, "unsigned values"),
        (QuantType.QInt8, {"QuantizeBias": False}, "a zero point other than 0"),
        (QuantType.QInt8, {"ActivationSymmetric": True}, "a bias of int32"),
    ],
)
def test_what_tensorrt_does_not_take_is_told_by_node_with_the_options_that_it_takes(
    tmp_path, activations, extra, said
):
    program = quantized(tmp_path, activations, extra)
    with pytest.raises(InputError, match=rf"Linear\): got {said}") as caught:
        build(program, tmp_path / "bundle", sample=(1, 3, 32, 32), target="tensorrt:int8")
    assert all(option in caught.value.fix for option in SYMMETRIC)


def float8(name: str, values: np.ndarray) -> TensorProto:
    low = values.astype(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, low.tobytes(), raw=True)


def test_a_program_in_fp8_becomes_engines_in_fp8(tmp_path):
    """Two products of E4M3 values; onnxruntime runs the same file, without the fusions that it has for int8."""
    rng = np.random.default_rng(0)
    text = """g (float[batch, 64] images) => (float[batch, 32] y) {
        q0 = QuantizeLinear (images, s0, zero)
        a0 = DequantizeLinear (q0, s0, zero)
        v0 = DequantizeLinear <axis = 1> (w0, sw, zeros)
        m = MatMul (a0, v0)
        r = Relu (m)
        q1 = QuantizeLinear (r, s1, zero)
        a1 = DequantizeLinear (q1, s1, zero)
        v1 = DequantizeLinear (w1, s0, zero)
        y = MatMul (a1, v1)
    }"""
    model = parsed(text, {"s0": np.array(0.01), "sw": np.full(64, 0.002), "s1": np.array(0.02)})
    low = {"zero": np.zeros(()), "zeros": np.zeros(64)}
    low |= {"w0": rng.normal(size=(64, 64)) * 50, "w1": rng.normal(size=(64, 32)) * 50}
    model.graph.initializer.extend(float8(name, values) for name, values in low.items())
    onnx.save(model, tmp_path / "float8.onnx")
    program = save_program(load_program(tmp_path / "float8.onnx"), tmp_path / "program.onnx")
    bundle = build(program, tmp_path / "bundle", sample=(1, 64), target="tensorrt:fp8@sm89")
    found = kinds_of(bundle, "whole")
    assert {("QUANTIZE", "FP8"), ("CONSTANT", "FP8"), ("MATRIX_MULTIPLY", "FLOAT")} <= found
    assert max(errors_of(bundle, rng.normal(size=(1, 64)).astype(np.float32))) < 1e-2
