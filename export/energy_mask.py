"""The torch op `foveate::energy_mask` (ERSM, arXiv 2604.06893), differentiable on every device.

The feature map x [B, C, H, W] is cut into p × p patches, zero-padded at the bottom and right; each is a token
of D = C·p² values, in the order of ONNX SpaceToDepth: index (dy·p + dx)·C + c. With h = ⌈H/p⌉, w = ⌈W/p⌉:

    u_i = t_i / (‖t_i‖₂ + 1e-6)                                          [B, D, h, w]
    z_i = weight · u_i + bias                                            [B, 1, h, w]   logits
    m_i = sigmoid(−z_i / temperature)                                    keep probability
    E_i = lam · softplus(z_i) + gamma · softplus(Σ_{j ∈ N8(i)} ⟨u_i, u_j⟩)              energy
    keep = m > threshold, at x's own resolution                          [B, 1, H, W]

Hard keep is 1 or 0; soft keep is m or 0. The gradient of the threshold is straight-through, ∂keep/∂m = 1, so
that a token that was dropped can come back; everything else has its exact gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6  # of the norm


def to_tokens(x: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, C·p², ⌈H/p⌉, ⌈W/p⌉], the order of ONNX SpaceToDepth."""
    if patch == 1:
        return x
    x = F.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch))
    b, c, height, width = x.shape
    grid = x.reshape(b, c, height // patch, patch, width // patch, patch)
    return grid.permute(0, 3, 5, 1, 2, 4).reshape(b, c * patch**2, height // patch, width // patch)


def from_tokens(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The inverse of `to_tokens`: the padding is cropped to [height, width]."""
    if patch == 1:
        return tokens
    b, d, h, w = tokens.shape
    grid = tokens.reshape(b, patch, patch, d // patch**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return grid.reshape(b, d // patch**2, h * patch, w * patch)[:, :, :height, :width]


def sum_of_neighbours(x: Tensor) -> Tensor:
    """Sum over the 8 neighbours of each position, 0 outside the map; shape kept. Three rows, then three columns of
    those: a third of the time of a 3 × 3 pooling."""
    rows = x.clone()
    rows[:, :, 1:] += x[:, :, :-1]
    rows[:, :, :-1] += x[:, :, 1:]
    block = rows.clone()
    block[..., 1:] += rows[..., :-1]
    block[..., :-1] += rows[..., 1:]
    return block - x


def _wide(x: Tensor) -> Tensor:
    """Half precision is computed in float32: a sum of thousands of products decides what is kept."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def normalised(x: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their norm, and the tokens divided by norm + EPS."""
    tokens = to_tokens(_wide(x), patch)
    norm = torch.linalg.vector_norm(tokens, dim=1, keepdim=True)
    return tokens, norm, tokens / (norm + EPS)


@torch.library.custom_op("foveate::energy_mask", mutates_args=())
def energy_mask(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    lam: Tensor,
    gamma: Tensor,
    patch: int,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """keep [B, 1, H, W] in x's dtype, logits and energy [B, 1, ⌈H/p⌉, ⌈W/p⌉] in at least float32.

    weight is [1, C·p², 1, 1], bias [1]; threshold, temperature, lam and gamma are 0-d tensors.
    """
    units = normalised(x, patch)[2]
    logits = (units * weight).sum(1, keepdim=True) + bias
    coherence = (units * sum_of_neighbours(units)).sum(1, keepdim=True)
    energy = lam * F.softplus(logits) + gamma * F.softplus(coherence)
    probability = torch.sigmoid(-logits / temperature)
    kept = probability > threshold
    tokens = torch.where(kept, probability, 0.0) if soft else kept
    keep = tokens.to(x.dtype).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return keep[:, :, : x.shape[2], : x.shape[3]].contiguous(), logits, energy


@energy_mask.register_fake
def _(x, weight, bias, threshold, temperature, lam, gamma, patch, soft):
    b, _, height, width = x.shape
    grid = (b, 1, (height + patch - 1) // patch, (width + patch - 1) // patch)
    dtype = _wide(x).dtype
    return x.new_empty((b, 1, height, width)), x.new_empty(grid, dtype=dtype), x.new_empty(grid, dtype=dtype)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, patch, _soft = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.patch = patch


def _backward(ctx, grad_keep: Tensor, grad_logits: Tensor, grad_energy: Tensor):
    x, weight, bias, _threshold, temperature, lam, gamma, logits = ctx.saved_tensors
    tokens, norm, units = normalised(x, ctx.patch)
    near = sum_of_neighbours(units)
    coherence = (units * near).sum(1, keepdim=True)

    probability = torch.sigmoid(-logits / temperature)
    grad_probability = to_tokens(_wide(grad_keep), ctx.patch).sum(1, keepdim=True)
    through = (
        grad_probability * probability * (1 - probability) / temperature
    )  # −∂/∂z of the keep probability
    grad_z = grad_logits + grad_energy * lam * torch.sigmoid(logits) - through
    grad_s = grad_energy * gamma * torch.sigmoid(coherence)

    # ⟨u_i, u_j⟩ reaches token k twice: as i, and as the neighbour j of each of its neighbours.
    grad_units = weight * grad_z + grad_s * near + sum_of_neighbours(grad_s * units)
    radial = (grad_units * tokens).sum(1, keepdim=True) / ((norm + EPS) ** 2 * norm.clamp_min(1e-30))
    grad_x = from_tokens(grad_units / (norm + EPS) - tokens * radial, ctx.patch, *x.shape[2:])
    return (
        grad_x.to(x.dtype),
        (units * grad_z).sum((0, 2, 3)).reshape(weight.shape).to(weight.dtype),
        grad_z.sum().reshape(bias.shape).to(bias.dtype),
        None,  # the threshold is a choice, not trained
        (through * logits / temperature).sum(),
        (grad_energy * F.softplus(logits)).sum(),
        (grad_energy * F.softplus(coherence)).sum(),
        None,
        None,
    )


energy_mask.register_autograd(_backward, setup_context=_setup_context)
