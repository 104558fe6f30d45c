"""Ops that work position by position: activations, and combinations with a tensor or with constants per channel."""

from __future__ import annotations

import math

import numpy as np

from ...runtime.native.plan import Activate, Affine, Combine, Prelu, Softmax, Step
from .registry import LoweredNode, Unsupported, rule

_LARGEST = float(np.finfo(np.float32).max)
_COMBINED = {"Add": "add", "Sum": "add", "Sub": "subtract", "Mul": "multiply"}


@rule("Relu", "Sigmoid", "Tanh", "HardSwish")
def plain(node: LoweredNode) -> None:
    names = {"HardSwish": "hard_swish"}
    op = node.view.node.op_type
    node.apply(node.source(), Activate(names.get(op, op.lower())))


@rule("Identity", "Dropout")
def identity(node: LoweredNode) -> None:
    if any(node.view.node.output[1:]):
        raise Unsupported("gives its dropout mask")
    node.apply(node.source())


@rule("Cast", "CastLike")
def cast(node: LoweredNode) -> None:
    names = node.view.node.input[0], node.view.node.output[0]
    kinds = {node.view.probes.sample.dtypes[name] for name in names}
    if kinds != {"float32"}:
        raise Unsupported("changes the data type")
    node.apply(node.source())


@rule("Elu", "Celu", "Selu")
def exponential(node: LoweredNode) -> None:
    """scale · alpha · (exp(rate · x) − 1) below zero, scale · x above."""
    op, attrs = node.view.node.op_type, node.view.attrs
    alpha = attrs.get("alpha", 1.6732632 if op == "Selu" else 1.0)
    steps: list[Step] = [Activate("elu", alpha, 1 / alpha if op == "Celu" else 1.0)]
    source = node.source()
    if op == "Selu":
        scale = np.full(node.builder.channels[source], attrs.get("gamma", 1.0507010))
        steps.append(_affine(node, scale, None))
    node.apply(source, *steps)


@rule("Erf", "Softplus")
def special(node: LoweredNode) -> None:
    node.apply(node.source(), Activate(node.view.node.op_type.lower()))


@rule("Mish")
def mish(node: LoweredNode) -> None:
    source = node.source()
    node.apply(source, Activate("softplus"), Activate("tanh"), Combine("multiply", source))


@rule("Gelu")
def gelu(node: LoweredNode) -> None:
    """x · (1 + erf(x ÷ √2)) ÷ 2"""
    if node.view.attrs.get("approximate", "none") != "none":
        raise Unsupported("is approximated by tanh")
    source = node.source()
    ones = np.ones(node.builder.channels[source])
    inner, outer = _affine(node, ones / math.sqrt(2), None), _affine(node, ones / 2, ones / 2)
    node.apply(source, inner, Activate("erf"), outer, Combine("multiply", source))


@rule("Abs")
def absolute(node: LoweredNode) -> None:
    node.apply(node.source(), Activate("leaky", -1.0))


@rule("Pow")
def power(node: LoweredNode) -> None:
    """By the whole numbers 1 to 4."""
    exponent = node.constant(1)
    if 0 not in node.view.data or exponent.size != 1 or exponent.item() not in (1, 2, 3, 4):
        raise Unsupported("raises to another power than 1 to 4")
    source = node.source()
    node.apply(source, *[Combine("multiply", source)] * (int(exponent.item()) - 1))


@rule("LeakyRelu")
def leaky(node: LoweredNode) -> None:
    node.apply(node.source(), Activate("leaky", node.view.attrs.get("alpha", 0.01)))


@rule("HardSigmoid")
def hard_sigmoid(node: LoweredNode) -> None:
    node.apply(node.source(), Activate("hard_sigmoid", *_slope(node)))


@rule("Swish")
def swish(node: LoweredNode) -> None:
    if node.view.attrs.get("alpha", 1.0) != 1.0:
        raise Unsupported("has an alpha other than 1")
    node.apply(node.source(), Activate("silu"))


@rule("Clip")
def clip(node: LoweredNode) -> None:
    low, high = (
        float(node.constant(i).item()) if node.view.name(i) else default
        for i, default in ((1, -_LARGEST), (2, _LARGEST))
    )
    node.apply(node.source(), Activate("clip", low, high))


@rule("Max", "Min")
def bound(node: LoweredNode) -> None:
    """By one constant."""
    data, others = _operands(node)
    if len(data) != 1 or len(others) != 1 or node.constant(others[0]).size != 1:
        raise Unsupported("compares maps")
    limit = float(node.constant(others[0]).item())
    bounds = (limit, _LARGEST) if node.view.node.op_type == "Max" else (-_LARGEST, limit)
    node.apply(node.source(data[0]), Activate("clip", *bounds))


@rule("PRelu")
def prelu(node: LoweredNode) -> None:
    source = node.source()
    slope = node.constant(1)
    if slope.ndim == 3:
        slope = slope[None]
    if slope.size not in (1, node.builder.channels[source]) or (
        slope.size > 1 and slope.shape[1] != slope.size
    ):
        raise Unsupported(f"has slopes of shape {list(slope.shape)}")
    spread = np.broadcast_to(slope.ravel(), node.builder.channels[source])
    node.apply(source, Prelu(node.builder.array(spread)))


@rule("Softmax")
def softmax(node: LoweredNode) -> None:
    if node.view.axis(4) != 1:
        raise Unsupported("is over another axis than channels")
    node.apply(node.source(), Softmax())


@rule("BatchNormalization")
def batch_normalization(node: LoweredNode) -> None:
    scale, bias, mean, variance = (node.constant(i).astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + node.view.attrs.get("epsilon", 1e-5))
    node.apply(node.source(), _affine(node, factor, bias - mean * factor))


@rule("Neg")
def negate(node: LoweredNode) -> None:
    source = node.source()
    node.apply(source, _affine(node, np.full(node.builder.channels[source], -1.0), None))


@rule("Add", "Sum", "Sub", "Mul", "Div")
def combine(node: LoweredNode) -> None:
    data, others = _operands(node)
    gated = _gate(node)
    if gated is not None:
        node.apply(gated[0], gated[1])
    elif len(data) == 1:
        channels = node.view.out_shape()[1]
        steps = [_with_constant(node, i, channels) for i in others]
        node.apply(node.spread(node.source(data[0]), channels), *steps)
    elif others or node.view.node.op_type == "Div":
        raise Unsupported("divides maps, or combines several with constants")
    else:
        _combine_maps(node, [node.source(i) for i in data])


def _combine_maps(node: LoweredNode, sources: list[int]) -> None:
    how, known = _COMBINED[node.view.node.op_type], node.builder.channels
    channels = max(known[s] for s in sources)
    if how == "multiply" and known[sources[0]] < channels:
        sources = sources[::-1]
    first, *rest = sources
    if how != "multiply" or known[first] < channels:
        first, *rest = (node.spread(s, channels) for s in sources)
    alone = {s: how == "multiply" and known[s] == 1 < channels for s in rest}
    node.apply(first, *(Combine("multiply_map" if alone[s] else how, s) for s in rest))


def _with_constant(node: LoweredNode, i: int, channels: int) -> Step:
    """What constant operand i does to the map that is the other operand."""
    op = node.view.node.op_type
    value = node.per_channel(i, channels).astype(np.float64)
    ones = np.ones(channels)
    if op in ("Add", "Sum"):
        return _affine(node, ones, value)
    if op == "Mul":
        return _affine(node, value, None)
    if op == "Sub":
        return _affine(node, ones, -value) if i == 1 else _affine(node, -ones, value)
    if i == 0:
        raise Unsupported("divides a constant by a map")
    return _affine(node, 1.0 / value, None)


def _gate(node: LoweredNode) -> tuple[int, Step] | None:
    """x · sigmoid(x) and its like: the source and what is done to it."""
    view = node.view
    if view.node.op_type != "Mul" or len(view.node.input) != 2:
        return None
    for i in (0, 1):
        gate = view.graph.producer.get(view.name(1 - i))
        if gate is None or gate.input[0] != view.name(i):
            continue
        if gate.op_type == "Sigmoid":
            return node.source(i), Activate("silu")
        if gate.op_type == "HardSigmoid":
            slope = {a.name: a.f for a in gate.attribute}
            if math.isclose(slope.get("alpha", 0.2), 1 / 6, rel_tol=1e-5) and slope.get("beta", 0.5) == 0.5:
                return node.source(i), Activate("hard_swish")
    return None


def _operands(node: LoweredNode) -> tuple[list[int], list[int]]:
    """Indices of inputs that are maps, and of those that are constants."""
    data = list(node.view.data)
    return data, [i for i in range(len(node.view.node.input)) if i not in data]


def _slope(node: LoweredNode) -> tuple[float, float]:
    return node.view.attrs.get("alpha", 0.2), node.view.attrs.get("beta", 0.5)


def _affine(node: LoweredNode, scale: np.ndarray, shift: np.ndarray | None) -> Affine:
    return Affine(node.builder.array(scale), None if shift is None else node.builder.array(shift))
