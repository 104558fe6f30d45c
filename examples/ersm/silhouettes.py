"""A first guess for a mask's weights: the tokens that hold a garment.

Straight-through gradients alone find the garments slowly, for the effect of one token on the loss has either sign and
averages out; and they leave a garment on a background of its own colour unfound. The scenes know their silhouettes, so
training uses them, here and in its loss. Inference does not.
"""

from __future__ import annotations

import torch
from data import Scenes
from foveate.export import EnergyMaskLayer
from foveate.export.energy_mask import normalised
from foveate.export.mask_losses import wanted_tokens
from scoring import to_input
from torch import Tensor, nn

SHARE = 0.1  # of a token's pixels: a token with more garment than that should be kept
RIDGE = 1e-5  # relative to the number of tokens
SPREAD = 2.0  # standard deviation of the first logits
GUESS = 384  # scenes that the first guess is fitted to


@torch.no_grad()
def start_from_silhouettes(mask: EnergyMaskLayer, stem: nn.Module, scenes: Scenes, active: float) -> None:
    """Fits weight and bias of a mask behind `stem` by ridge regression to the tokens that should be kept; of the
    fitted scenes it then keeps the fraction `active`."""
    pairs = [_tokens(mask.patch, stem.eval(), scenes, start) for start in range(0, GUESS, 32)]
    features = torch.cat([f for f, _ in pairs])  # [tokens, D]
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    gram = features.T @ features + RIDGE * len(features) * torch.eye(features.shape[1])
    found = torch.linalg.solve(gram, features.T @ torch.cat([t for _, t in pairs]))
    fitted = features @ found
    scale = SPREAD / fitted.std()
    border = fitted.kthvalue(max(1, round((1 - active) * len(fitted)))).values
    mask.weight.copy_((-scale * found[:-1]).reshape(mask.weight.shape))  # wanted: z < 0, kept
    mask.bias.copy_(scale * (border - found[-1:]))


def _tokens(patch: int, stem: nn.Module, scenes: Scenes, start: int) -> tuple[Tensor, Tensor]:
    """The normalised tokens [32·N, D] of 32 scenes, and which of them should be kept [32·N]."""
    images, silhouettes, _ = scenes.batch(start, 32)
    with torch.autocast("cpu", torch.bfloat16):
        features = stem(to_input(images))
    units = normalised(features, patch)[2]  # [B, D, h, w]
    target = wanted_tokens(torch.from_numpy(silhouettes), (units.shape[2], units.shape[3]), SHARE)
    return units.flatten(2).transpose(1, 2).flatten(0, 1), target.flatten()
