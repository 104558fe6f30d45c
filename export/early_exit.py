"""The torch ops `foveate::exit_gate` and `foveate::exit_select` (ECO-M2F, arXiv 2404.15244).

scores = features · weightᵀ + bias                                   [B, K]
depth = exits[argmax(scores + offset)]                               [B], the first of equal ones
chosen = shallow where depth ≤ exit, else deep                       per image
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("foveate::exit_gate", mutates_args=())
def exit_gate(
    features: Tensor, weight: Tensor, bias: Tensor, offset: Tensor, exits: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """depth [B] int64 and scores [B, K]; features [B, D], weight [K·D] row by row, bias and offset [K]."""
    scores = torch.nn.functional.linear(features, weight.reshape(len(exits), -1), bias)
    best = (scores + offset).argmax(1)
    return torch.tensor(list(exits), device=scores.device)[best], scores


@exit_gate.register_fake
def _(features, weight, bias, offset, exits):
    batch = features.shape[0]
    return features.new_empty((batch,), dtype=torch.int64), features.new_empty((batch, len(exits)))


def _keep_gate(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _through_gate(ctx, _grad_depth, grad_scores: Tensor):
    features, weight = ctx.saved_tensors
    rows = weight.reshape(grad_scores.shape[1], -1)
    return grad_scores @ rows, (grad_scores.T @ features).reshape(-1), grad_scores.sum(0), None, None


exit_gate.register_autograd(_through_gate, setup_context=_keep_gate)


@torch.library.custom_op("foveate::exit_select", mutates_args=())
def exit_select(depth: Tensor, shallow: Tensor, deep: Tensor, exit: int) -> Tensor:
    """[B, …]: `shallow` for images with depth ≤ exit, `deep` for the others."""
    return torch.where(_of_images(depth <= exit, deep), shallow, deep)


@exit_select.register_fake
def _(depth, shallow, deep, exit):
    return torch.empty_like(deep)


def _keep_select(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.exit = inputs[3]


def _through_select(ctx, grad: Tensor):
    leaves = _of_images(ctx.saved_tensors[0] <= ctx.exit, grad)
    return None, torch.where(leaves, grad, 0), torch.where(leaves, 0, grad), None


exit_select.register_autograd(_through_select, setup_context=_keep_select)


def _of_images(flags: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, …] of the rank of `like`."""
    return flags.reshape(-1, *[1] * (like.ndim - 1))
