"""Tensors and attributes of ONNX files, as torch and Python have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BOOL: torch.bool,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
}


def to_tensor(proto: TensorProto) -> Tensor:
    array = numpy_helper.to_array(proto)
    if proto.data_type == TensorProto.BFLOAT16:  # numpy has no such type
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def attribute(proto: onnx.AttributeProto) -> Any:
    """A number, a string, a tensor, or a list of numbers."""
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, TensorProto):
        return to_tensor(value)
    return value if isinstance(value, int | float) else list(value)


def constant(attributes: dict[str, Any]) -> Tensor:
    """Of a node Constant."""
    (value,) = attributes.values()
    return value if isinstance(value, Tensor) else torch.tensor(value)
