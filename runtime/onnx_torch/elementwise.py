"""Operators that compute each element by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .protos import TYPES
from .registry import Attributes, operator

_PLAIN: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsInf": torch.isinf,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Mish": F.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": lambda x, y: torch.pow(x, y).to(x.dtype),
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda attributes, *inputs: function(*inputs)


for _name, _function in _PLAIN.items():
    operator(_name)(_plain(_function))


@operator("Cast")
def cast(attributes: Attributes, x: Tensor) -> Tensor:
    return x.to(TYPES[attributes["to"]])


@operator("CastLike")
def cast_like(attributes: Attributes, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@operator("Clip")
def clip(attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@operator("Div")
def div(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Mod")
def mod(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if attributes.get("fmod", 0) else torch.remainder(x, y)


@operator("Max")
def most(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, inputs)


@operator("Min")
def least(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, inputs)


@operator("Sum")
def total(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs)


@operator("Gelu")
def gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=attributes.get("approximate", "none"))


@operator("LeakyRelu")
def leaky_relu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.leaky_relu(x, attributes.get("alpha", 0.01))


@operator("Celu")
def celu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.celu(x, attributes.get("alpha", 1.0))


@operator("Selu")
def selu(attributes: Attributes, x: Tensor) -> Tensor:
    alpha, gamma = attributes.get("alpha", 1.6732632423543772), attributes.get("gamma", 1.0507009873554805)
    return gamma * F.elu(x, alpha)


@operator("Elu")
def elu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.elu(x, attributes.get("alpha", 1.0))


@operator("PRelu")
def prelu(attributes: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@operator("HardSigmoid")
def hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5), 0, 1)


@operator("Dropout")
def dropout(attributes: Attributes, x: Tensor, *_: Any) -> Tensor:
    return x  # as it is when nothing is trained
