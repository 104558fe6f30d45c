"""What errors `verify` takes for rounding: relative ones, as of `compare.relative_error`."""

from __future__ import annotations

from ..runtime.manifest import ONNX, EngineFile

TOLERANCE = 1e-5  # of backends that compute in float32 what the reference computes, in another order …
EXACT = ("ort", "null")  # … which these are
QUANTIZED = (
    0.1  # of these, of programs in Q/DQ: a value on the edge of two bytes falls to either, and is carried on
)

TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 5e-2, "fp8": 1e-1}
"""By type, of engines that TensorRT builds. Of float16 and bfloat16 they are forty and twenty-five roundings to
one side; Q/DQ is the reference's, too, so what is left there is values that fall on the other side of a step. Bounds to
find wrong engines by: no measurements of good ones on a GPU went into them."""


def tolerance_of(precision: str) -> float:
    """Of an engine: the greater of its types'."""
    return max(TOLERANCES[part] for part in precision.split("+"))


def tolerance_of_engine(engine: EngineFile, quantized: bool) -> float:
    """`quantized`: of a program in Q/DQ, which an ONNX file in another precision goes on computing."""
    own = tolerance_of(engine.precision)
    return max(own, tolerance_of("int8")) if quantized and engine.flavour == ONNX else own
