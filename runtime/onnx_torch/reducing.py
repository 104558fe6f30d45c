"""Operators that combine elements along axes: reductions, norms, softmax, products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import Attributes, operator

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
}


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(attributes: Attributes, x: Tensor, axes: list[int] | None = None) -> Tensor:
        axes = axes if axes is not None else attributes.get("axes")
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return x
        return function(x, tuple(axes or range(x.ndim)), bool(attributes.get("keepdims", 1)))

    return run


for _name, _function in _REDUCTIONS.items():
    operator(_name, host=[1])(_reduction(_function))


@operator("ReduceProd", host=[1])
def reduce_prod(attributes: Attributes, x: Tensor, axes: list[int] | None = None) -> Tensor:
    axes, keep = axes if axes is not None else attributes.get("axes"), bool(attributes.get("keepdims", 1))
    for axis in sorted((axis % x.ndim for axis in axes or range(x.ndim)), reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


@operator("ArgMax")
def arg_max(attributes: Attributes, x: Tensor) -> Tensor:
    return x.argmax(attributes.get("axis", 0), bool(attributes.get("keepdims", 1)))


@operator("TopK", host=[1])
def top_k(attributes: Attributes, x: Tensor, k: list[int]) -> tuple[Tensor, Tensor]:
    axis, largest = attributes.get("axis", -1), bool(attributes.get("largest", 1))
    found = torch.topk(x, k[0], axis, largest, bool(attributes.get("sorted", 1)))
    return found.values, found.indices


@operator("CumSum", host=[1])
def cum_sum(attributes: Attributes, x: Tensor, axis: Any) -> Tensor:
    (where,) = axis if isinstance(axis, list) else (axis,)
    backwards = bool(attributes.get("reverse", 0))
    found = (x.flip(where) if backwards else x).cumsum(where, dtype=x.dtype)
    found = found.flip(where) if backwards else found
    return found - x if attributes.get("exclusive", 0) else found


@operator("Softmax")
def softmax(attributes: Attributes, x: Tensor) -> Tensor:
    return F.softmax(x, attributes.get("axis", -1))


@operator("LogSoftmax")
def log_softmax(attributes: Attributes, x: Tensor) -> Tensor:
    return F.log_softmax(x, attributes.get("axis", -1))


@operator("MatMul")
def mat_mul(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.matmul(x, y)


@operator("Gemm")
def gemm(attributes: Attributes, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    x = x.T if attributes.get("transA", 0) else x
    y = y.T if attributes.get("transB", 0) else y
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if bias is None:
        return x @ y if alpha == 1 else alpha * (x @ y)
    return torch.addmm(bias, x, y, alpha=alpha, beta=beta)


@operator("Einsum")
def einsum(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return torch.einsum(attributes["equation"], *inputs)


@operator("LayerNormalization")
def layer_norm(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, list(weight.shape), weight, bias, attributes.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def instance_norm(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=weight, bias=bias, eps=attributes.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    groups = attributes["num_groups"]
    if len(weight) == groups:  # before opset 21 there is one a group
        weight, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (weight, bias))
    return F.group_norm(x, groups, weight, bias, attributes.get("epsilon", 1e-5))


@operator("BatchNormalization")
def batch_norm(
    attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, eps=attributes.get("epsilon", 1e-5))
