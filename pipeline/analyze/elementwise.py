"""Ops that work position by position, with broadcasting; constants must not have a spatial extent."""

from __future__ import annotations

from .field import HERE
from .registry import Barrier, Local, NodeView, rule

# fmt: off
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike", "Ceil",
    "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "PRelu", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Identity", "Dropout",
)
BROADCAST = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
)
# fmt: on


@rule(*UNARY, *BROADCAST)
def elementwise(view: NodeView) -> Local | Barrier:
    out = view.out_shape()
    rank = len(out)
    axes = None
    for i in view.data:
        own = view.axes(i)
        if own is None:
            return Barrier(f"operand {view.name(i)} is one value per image, computed from the whole map")
        moved = own[0] + rank - len(view.shape(i)), own[1] + rank - len(view.shape(i))
        if axes not in (None, moved):
            return Barrier("its operands hold height and width on different axes")
        axes = moved
        if any(view.shape(i)[a] != out[b] for a, b in zip(own, moved, strict=True)):
            return Barrier(f"operand {view.name(i)} is spread over the map")
    assert axes is not None  # read_node has seen a map among the data inputs
    for i in range(len(view.node.input)):
        if i not in view.data and view.name(i) and _has_extent(view, i, axes, rank):
            return Barrier(f"constant {view.name(i)} has a spatial extent")
    return Local(dict.fromkeys(view.data, HERE), axes)


@rule("BatchNormalization", "LRN")
def per_channel(view: NodeView) -> Local | Barrier:
    """Along axis 1 only."""
    axes = view.axes()
    if axes is None or 1 in axes or view.data != [0] or view.attrs.get("training_mode"):
        return Barrier("does not work along channels alone")
    return Local({0: HERE}, axes)


def _has_extent(view: NodeView, i: int, axes: tuple[int, int], rank: int) -> bool:
    shape = view.shape(i)
    if view.node.op_type in ("QuantizeLinear", "DequantizeLinear"):  # a vector along `axis`
        return len(shape) > 0 and shape[0] > 1 and view.axis(rank, default=1) in axes
    padded = (1,) * (rank - len(shape)) + tuple(shape)
    return any(padded[a] != 1 for a in axes)
