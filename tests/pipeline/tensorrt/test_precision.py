"""What TensorRT builds of models with casts, and takes of quantized ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from foveate.pipeline.build import build
from foveate.pipeline.lower_precision import KINDS, lower_precision
from foveate.pipeline.tensorrt.engine_build import build_plan
from foveate.pipeline.tensorrt.precision import check_quantized
from foveate.runtime.errors import InputError

from ...early_exits import exit_program
from ..test_lower_precision import graph


@pytest.fixture(scope="module")
def exits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    return build(exit_program(folder / "exits.onnx"), folder / "bundle", sample=(1, 3, 32, 32), layout="if")


@pytest.mark.parametrize("precision", KINDS)
def test_tensorrt_builds_what_is_cast(exits, rtx, tmp_path, precision):
    path = tmp_path / "exits.onnx"
    onnx.save(lower_precision(onnx.load(exits / "programs/exits.onnx"), precision), path)
    shapes = (1, 3, 16, 16), (1, 3, 32, 32), (4, 3, 64, 64)
    built = build_plan(path, ({"images": shapes},), "any", rtx)
    kind = {"fp16": "HALF", "bf16": "BF16"}[precision]
    assert ("CONVOLUTION", (kind,)) in {(layer.kind, layer.dtypes) for layer in built.layers}
    assert {t.dtype for t in (*built.inputs, *built.outputs)} == {"FLOAT", "INT64"}


def test_a_program_is_quantized_by_its_own_nodes_or_not_at_all():
    plain = graph("g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }")
    for precision in ("int8", "fp8"):
        with pytest.raises(InputError, match=rf"tensorrt:{precision}(.|\n)*Quantize it first"):
            check_quantized(plain, precision)
    weights = {"s": np.array(0.5, np.float32), "z": np.array(0, np.int8)}
    text = "g (float[n, 4] x) => (float[n, 4] y) { q = QuantizeLinear (x, s, z)\n y = DequantizeLinear (q, s, z) }"
    check_quantized(graph(text, weights), "int8")
    with pytest.raises(InputError, match="of fp8"):
        check_quantized(graph(text, weights), "fp8")
