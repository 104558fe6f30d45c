"""What TensorRT takes of programs that are quantized, by Q/DQ nodes in the ONNX file."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, numpy_helper

from ...runtime.errors import InputError
from ..lower_precision import PRODUCTS

QUANTIZED = {"int8": (TensorProto.INT8,), "fp8": (TensorProto.FLOAT8E4M3FN,)}


def check_quantized(program: onnx.ModelProto, precision: str) -> None:
    """TensorRT quantizes nothing by itself any more (11 removed its calibrators). Raises InputError where the program
    is not quantized to "int8" or "fp8" already, which its own Q/DQ nodes then say, or not as TensorRT takes it."""
    nodes = [n for n in program.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    tensors = {i.name: i for i in program.graph.initializer}
    kinds = {tensors[name].data_type for node in nodes for name in node.input if name in tensors}
    for node in nodes:
        if why := _why_not_symmetric(node, tensors):
            raise InputError(
                f"target tensorrt:{precision}, node {node.name or node.output[0]} ({node.op_type})",
                got=why,
                expected="signed values of zero point 0, and float32 biases",
                fix="Quantize symmetrically: onnxruntime.quantization.quantize_static with activation_type=QInt8 and "
                'extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}.',
            )
    if kinds.isdisjoint(QUANTIZED[precision]):
        raise InputError(
            f"target tensorrt:{precision}",
            got=f"a program without QuantizeLinear and DequantizeLinear nodes of {precision}",
            expected="a program that is quantized in the ONNX file, symmetrically",
            fix=f"Quantize it first: foveate calibrate PROGRAM --precision {precision}; or take tensorrt:fp16.",
        )


def _why_not_symmetric(node: onnx.NodeProto, tensors: Mapping[str, TensorProto]) -> str:
    value, zero = tensors.get(node.input[0]), tensors.get(node.input[2] if len(node.input) > 2 else "")
    if value is not None and value.data_type == TensorProto.INT32:
        return "a bias of int32"
    if zero is not None and zero.data_type in (TensorProto.UINT8, TensorProto.UINT16):
        return "unsigned values"
    if zero is None or zero.data_location == TensorProto.EXTERNAL or not numpy_helper.to_array(zero).any():
        return ""
    return "a zero point other than 0"


def sums_of_bytes(graph: onnx.GraphProto) -> set[str]:
    """What layers make that are quantized: their operands are dequantized."""
    dequantized = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    layers = (n for n in graph.node if n.op_type in PRODUCTS and not dequantized.isdisjoint(n.input))
    return {name for node in layers for name in node.output}
