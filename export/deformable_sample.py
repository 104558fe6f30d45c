"""The torch op `foveate::deformable_sample`: what queries read of several maps. See `ops/deformable_sample.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = Sequence[tuple[int, int]]


@torch.library.custom_op("foveate::deformable_sample", mutates_args=())
def deformable_sample(value: Tensor, sizes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """[B, Q, heads · C], of value [B, S, heads, C], sizes int64 [L, 2], locations [B, Q, heads, L, P, 2] and weights
    [B, Q, heads, L, P]."""
    return sample_maps(value, [(int(h), int(w)) for h, w in sizes], locations, weights)


@deformable_sample.register_fake
def _(value, sizes, locations, weights):
    batch, queries, heads = locations.shape[:3]
    return value.new_empty((batch, queries, heads * value.shape[3]))


def sample_maps(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same, differentiable, of sizes that are numbers."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], dim=2)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # [B·heads, Q, levels, points, 2]
    shares = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(sizes), points)
    answer = value.new_zeros(())
    for number, (level, size) in enumerate(zip(maps, sizes, strict=True)):
        seen = F.grid_sample(
            level.reshape(batch * heads, channels, *size), grids[:, :, number], align_corners=False
        )
        answer = answer + (seen * shares[:, :, :, number]).sum(-1)
    return answer.reshape(batch, heads * channels, queries).transpose(1, 2)
