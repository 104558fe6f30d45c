"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3) in the form that exports with free sizes.

Each query reads a few points of every level's map, at offsets from its reference point that it predicts itself:

    answer(q) = Σ_heads W_head Σ_levels Σ_points a(q, level, point) · value_level(reference(q) + offset(q, point))

where value_level is read bilinearly, and is zero outside of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .deformable_sample import Sizes, deformable_sample, sample_maps


def sample_levels(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """[B, Q, heads · D]: the weighted sum of what each query reads; one op in an exported program.

    value [B, S, heads, D], S = Σ height · width over `sizes`, level after level, row by row; locations
    [B, Q, heads, levels, points, 2] as (x, y) in shares of the map, 0 its left or upper border, 1 its other; weights
    [B, Q, heads, levels, points]."""
    if not torch.compiler.is_exporting():
        return sample_maps(value, sizes, locations, weights)
    both = [torch.stack([_number(h, value, torch.int64), _number(w, value, torch.int64)]) for h, w in sizes]
    return deformable_sample(value, torch.stack(both), locations, weights)


def deformable_attention(
    attention: Any, queries: Tensor, values: Tensor, reference: Tensor, sizes: Sizes
) -> Tensor:
    """What a transformers deformable-attention module answers, [B, Q, C].

    queries [B, Q, C] with their positions, values [B, S, C]; reference [1 or B, Q, 1 or levels, 2] as (x, y),
    offsets from it are in tokens; or [.., 4] as (x, y, width, height), offsets are in halves of that box ÷ points."""
    heads, levels, points = attention.n_heads, attention.n_levels, attention.n_points
    each = queries.shape[0], queries.shape[1], heads, levels, points

    def of_points(pairs: Tensor) -> Tensor:
        """[…, 1 or levels, 2] -> […, levels · points · 2]: engines are slow where only two numbers stand together."""
        return pairs[..., None, :].expand(*pairs.shape[:-2], levels, points, 2).flatten(-3)

    offsets = attention.sampling_offsets(queries).reshape(*each[:3], levels * points * 2)
    reference = reference[:, :, None]
    if reference.shape[-1] == 4:
        offsets = offsets / points * of_points(reference[..., 2:]) * 0.5
    else:  # the module divides by a tensor that it makes of the sizes, which an exporter takes for a constant
        extent = torch.stack([torch.stack([_number(w, queries), _number(h, queries)]) for h, w in sizes])
        offsets = offsets / of_points(extent)
    weights = attention.attention_weights(queries).reshape(*each[:3], levels * points).softmax(-1)
    value = attention.value_proj(values).reshape(*values.shape[:2], heads, -1)
    locations = (of_points(reference[..., :2]) + offsets).reshape(*each, 2)
    return attention.output_proj(sample_levels(value, sizes, locations, weights.reshape(each)))


def reference_points(sizes: Sizes, like: Tensor) -> Tensor:
    """[1, S, 1, 2]: the middle of every token's cell as (x, y), the same in each level."""
    points = []
    for height, width in sizes:  # not linspace: its length would come out fixed
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        both = [x.expand(height, width), y[:, None].expand(height, width)]
        points.append(torch.stack(both, -1).reshape(height * width, 2))
    return torch.cat(points)[None, :, None]


class DeformableLayer(nn.Module):
    """A transformers encoder layer of deformable self-attention: tokens [B, S, C], positions [B, S, C] -> [B, S, C]."""

    def __init__(self, layer: Any, sizes: Callable[[tuple[Tensor, ...]], Sizes]):
        """sizes: of the levels, from the encoder's context, whose first tensor are the positions."""
        super().__init__()
        self.layer, self._sizes = layer, sizes

    def forward(self, tokens: Tensor, *context: Tensor) -> Tensor:
        layer, sizes = self.layer, self._sizes(context)
        reference = reference_points(sizes, tokens)
        attended = deformable_attention(layer.self_attn, tokens + context[0], tokens, reference, sizes)
        tokens = layer.self_attn_layer_norm(tokens + attended)
        wide = (
            layer.mlp(tokens) if hasattr(layer, "mlp") else layer.fc2(layer.activation_fn(layer.fc1(tokens)))
        )
        return layer.final_layer_norm(tokens + wide)


def tokens_of(maps: Iterable[Tensor]) -> Tensor:
    """Levels [B, C, H, W] -> [B, S, C]: level after level, row by row."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)


def positions_of(maps: Sequence[Tensor], embed: Any, levels: Tensor) -> Tensor:
    """[B, S, C]: of each token, its place's sine embedding (a transformers module) plus its level's, `levels` [L,
    C]."""
    embedded = [
        embed((1, *level.shape[1:]), level.device, level.dtype) + own[:, None, None]
        for level, own in zip(maps, levels, strict=True)
    ]
    return tokens_of(embedded).expand(maps[0].shape[0], -1, -1)


def _number(size: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.full((), size, device=like.device, dtype=dtype or like.dtype)
