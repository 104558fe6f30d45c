"""Programs that `foveate calibrate --precision` writes, as engines: TensorRT takes their Q/DQ, also with layers in
floats, which run in float16 there, or in the type asked for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from foveate.calibration.layers import layers_of
from foveate.calibration.quantized import KINDS, measure_ranges, quantized
from foveate.export.program import load_program, save_program
from foveate.pipeline.build import build
from foveate.pipeline.inspect import inspect, lines
from foveate.pipeline.targets import target_of
from foveate.pipeline.tensorrt.engine_build import build_plan
from foveate.pipeline.tensorrt.engine_model import EngineModels
from foveate.pipeline.tensorrt.flavour import find_flavour
from foveate.pipeline.verify import verify
from foveate.runtime.bundle import open_bundle
from onnx import TensorProto

from ...early_exits import exit_program

SMALL = {"batch": (1, 1, 4), "height": (32, 64, 96), "width": (32, 96, 96)}


def made(path, kind: str, floats: int, folder):
    """The program in Q/DQ, its last `floats` layers in floats."""
    program = load_program(path)
    layers = layers_of(program)
    rng = np.random.default_rng(0)
    feeds = ({"images": rng.standard_normal((1, 3, 64, 96)).astype(np.float32)} for _ in range(2))
    low = [layer.name for layer in layers][: len(layers) - floats]
    return save_program(
        quantized(program, measure_ranges(program, layers, feeds), low, kind), folder / f"{kind}.onnx"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_program_becomes_engines(tiny_program, tmp_path, kind):
    path = made(tiny_program, kind, 1, tmp_path)
    target = f"tensorrt:{kind}@sm89"
    bundle = build(path, tmp_path / "bundle", sample=(1, 3, 64, 96), target=target, ranges=SMALL)
    engines = open_bundle(bundle).manifest.engines
    assert {engine.precision for engine in engines} == {kind} and len(engines) > 3
    report = verify(bundle, threads=2)  # answered by onnxruntime, on windows as by native kernels
    assert report.passed, report.lines()
    assert {check.strategy for check in report.checks} >= {"rects", "auto"}


def test_native_kernels_do_not_take_float8_for_bytes(tiny_program, tmp_path):
    bundle = build(made(tiny_program, "fp8", 0, tmp_path), tmp_path / "bundle", sample=(1, 3, 64, 96))
    assert any("quantizes to float8" in line for line in lines(inspect(bundle)))
    assert verify(bundle, threads=2).passed


def test_layers_in_floats_run_in_float16_and_quantized_ones_as_they_are(tmp_path):
    path = made(exit_program(tmp_path / "exits.onnx"), "int8", 2, tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    model = EngineModels(load_program(path), "int8").write(path, folder)
    graph = onnx.load(model.path).graph
    kinds = {i.name: i.data_type for i in graph.initializer}
    products = [n for n in graph.node if n.op_type in ("Conv", "MatMul")]
    low = [n for n in products if kinds.get(n.input[1]) == TensorProto.FLOAT16]
    assert len(low) == 2 and len(products) == 7
    readers = {name: n for n in graph.node for name in n.input}
    for node in (n for n in graph.node if n.op_type == "DequantizeLinear"):
        assert readers[node.output[0]].op_type != "Cast"


@pytest.mark.parametrize(
    ("precision", "floats"), [("int8", "HALF"), ("int8+bf16", "BF16"), ("int8+fp32", "FLOAT")]
)
def test_what_stays_in_floats_runs_in_the_type_asked_for(tiny_program, tmp_path, precision, floats):
    """In the network that TensorRT-RTX builds from the program whose last layer is not quantized."""
    path = made(tiny_program, "int8", 1, tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    model = EngineModels(load_program(path), precision).write(path, folder)
    shape = (1, 3, 64, 96)
    built = build_plan(model.path, ({"images": (shape, shape, shape)},), "sm89", find_flavour(("sm89",)))
    types = {dtype for layer in built.layers for dtype in layer.dtypes}
    assert {"INT8", "FLOAT", floats} <= types and types.isdisjoint({"HALF", "BF16"} - {floats})
    (product,) = (layer for layer in built.layers if layer.kind == "MATRIX_MULTIPLY")
    assert product.dtypes == (floats,)


def test_an_engine_of_mixed_types_is_verified_in_them(tiny_program, tmp_path):
    """No kernel of a CPU has bfloat16: the engine's model is rounded to it."""
    path, sample = made(tiny_program, "int8", 1, tmp_path), (1, 3, 64, 96)
    ranges = {"batch": (1, 1, 1), "height": (64, 64, 64), "width": (96, 96, 96)}
    target = "tensorrt:int8+bf16@sm89"
    bundle = build(path, tmp_path / "bundle", sample=sample, target=target, ranges=ranges)
    assert target_of(open_bundle(bundle).manifest) == target
    report = verify(bundle, limit=2, threads=2)
    assert report.passed and all(check.images == 2 and not check.failed for check in report.engines)
    errors = [error for check in report.engines for error in (check.errors or {}).values()]
    assert max(errors) > 1e-4  # something was rounded
