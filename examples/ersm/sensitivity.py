"""A first guess for a mask's weights: the tokens that a trained network's loss is sensitive to.

Straight-through gradients alone find the garments slowly: the effect of one token on the loss has either sign, and
averages out. Its size does not. So before training, w and b are fitted in closed form (ridge regression) to
|∂loss/∂keep_i|, relative to the image's mean, from the tokens' normalised features. No silhouette is looked at.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from data import Scenes
from foveate.export import EnergyMaskLayer
from foveate.export.energy_mask import EPS, to_tokens
from foveate.export.trace import MaskedModule
from scoring import to_input
from torch import Tensor, nn

RIDGE = 1e-5  # relative to the number of tokens
SPREAD = 2.0  # standard deviation of the first logits


class _Probe(nn.Module):
    """Stands in for a mask that keeps everything, and holds on to what it saw and gave."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch, self.tokens, self.keep = patch, torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x.detach().float(), self.patch)
        self.tokens = tokens / (tokens.norm(dim=1, keepdim=True) + EPS)  # [B, D, h, w]
        self.keep = torch.ones_like(x[:, :1], dtype=torch.float32).requires_grad_()
        return self.keep.to(x.dtype)


def start_from_sensitivity(net: MaskedModule, scenes: Scenes, active: float, count: int = 384) -> None:
    """Sets weight and bias of the net's first mask so that it keeps the fraction `active` of `count` scenes."""
    mask, name = net.masks[0], net.insertions[0]["name"]
    probe = _Probe(mask.patch)
    net.add_submodule(name, probe)
    try:
        pairs = [_sensitivity(net.eval(), probe, scenes, start) for start in range(0, count, 32)]
    finally:
        net.add_submodule(name, mask)
    features = torch.cat([f for f, _ in pairs])  # [tokens, D]
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    _set(mask, features, torch.cat([s for _, s in pairs]), active)


def _sensitivity(net: nn.Module, probe: _Probe, scenes: Scenes, start: int) -> tuple[Tensor, Tensor]:
    """Tokens [32·N, D] of 32 scenes, and the sensitivity of each relative to its image's mean [32·N]."""
    images, labels = scenes.batch(start, 32)
    with torch.autocast("cpu", torch.bfloat16):
        scores = net(to_input(images)).float()
    loss = F.cross_entropy(scores, torch.from_numpy(labels), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, probe.keep)
    size = to_tokens(gradient, probe.patch).sum(1).abs().flatten(1)  # [32, N]
    relative = size / size.mean(1, keepdim=True).clamp_min(1e-12)
    return probe.tokens.flatten(2).transpose(1, 2).flatten(0, 1), relative.flatten()


@torch.no_grad()
def _set(mask: EnergyMaskLayer, features: Tensor, sensitivity: Tensor, active: float) -> None:
    gram = features.T @ features + RIDGE * len(features) * torch.eye(features.shape[1])
    found = torch.linalg.solve(gram, features.T @ sensitivity)
    fitted = features @ found
    scale = SPREAD / fitted.std()
    border = fitted.kthvalue(max(1, round((1 - active) * len(fitted)))).values
    mask.weight.copy_((-scale * found[:-1]).reshape(mask.weight.shape))  # sensitive: z < 0, kept
    mask.bias.copy_(scale * (border - found[-1:]))
