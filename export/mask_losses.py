"""Loss terms of networks with energy masks. Each is of the last forward pass, summed over the network's masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .energy_mask_layer import EnergyMaskLayer


def energy_regularizer(model: nn.Module) -> Tensor:
    """mean(m · E), the regulariser of ERSM (arXiv 2604.06893). Raises ValueError if `model` has no mask."""
    return torch.stack([mask.energy_loss() for mask in _masks(model)]).sum()


def location_loss(model: nn.Module, where: Tensor, share: float = 0.1, miss: float = 4.0) -> Tensor:
    """How far the masks are from keeping what counts, where the training data know it: silhouettes or filled boxes.

    where: [B, H, W] in 0 … 1, 1 where the object is, over the same field as the images, at any resolution. A token
    that holds more than `share` of it should be kept, the others dropped; a wanted one dropped costs `miss` times as
    much as an unwanted one kept. Cross-entropy of the keep probabilities, mean over tokens. Raises ValueError if
    `model` has no mask, or `where` is not of the last pass's images.
    """
    return torch.stack([_location(mask, where, share, miss) for mask in _masks(model)]).sum()


def wanted_tokens(where: Tensor, size: tuple[int, int], share: float) -> Tensor:
    """[B, H, W] in 0 … 1 -> [B, 1, h, w]: 1 for each of h × w tokens with more than `share` of the object in it."""
    return (F.adaptive_avg_pool2d(where[:, None].float(), size) > share).float()


def _location(mask: EnergyMaskLayer, where: Tensor, share: float, miss: float) -> Tensor:
    logits = mask.last_logits()
    if where.ndim != 3 or len(where) != len(logits):
        raise ValueError(
            f"location_loss: where has shape {list(where.shape)}; expected [{len(logits)}, H, W], one map for each"
            " image of the last forward pass"
        )
    size = (logits.shape[2], logits.shape[3])
    target = wanted_tokens(where.to(logits.device), size, share)
    weight = torch.tensor(miss, device=logits.device)
    return F.binary_cross_entropy_with_logits(-logits / mask.temperature, target, pos_weight=weight)


def _masks(model: nn.Module) -> list[EnergyMaskLayer]:
    masks = [m for m in model.modules() if isinstance(m, EnergyMaskLayer)]
    if not masks:
        raise ValueError(
            "the model has no EnergyMaskLayer; insert one with insert_energy_mask(model, after=…)"
        )
    return masks
