"""transformers' Mask2Former as an early-exit encoder (ECO-M2F, arXiv 2404.15244).

Its layers are the pixel decoder's deformable-attention layers, over the tokens of three levels, coarse to fine; the
stem is the backbone with the projections, the head what makes a feature pyramid of the tokens and decodes masks
from it. The gate reads the mean of the coarsest level's tokens as the stem makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .deformable_attention import DeformableLayer, Sizes, positions_of, tokens_of
from .early_exit_model import EarlyExitModel
from .swin import free_sizes, least_size

CLASSES, MASKS = "class_queries_logits", "masks_queries_logits"


class Mask2FormerEncoder(nn.Module):
    """An `Encoder` of a Mask2FormerForUniversalSegmentation, whose weights it shares.

    images [B, 3, H, W], H and W multiples of `multiple`, at least `least` -> class_queries_logits [B, Q, classes + 1],
    masks_queries_logits [B, Q, H/4, W/4]."""

    def __init__(self, model: Any):
        super().__init__()
        model.set_attn_implementation("eager")  # Swin's other ones do not decompose
        self.model = model.eval()
        self.decoder = model.model.pixel_level_module.decoder
        self.layers = nn.ModuleList(
            DeformableLayer(layer, self._sizes) for layer in self.decoder.encoder.layers
        )
        free_sizes(model.model.pixel_level_module.encoder)
        self.multiple = int(max(model.config.feature_strides))
        self.least = max(2 * self.multiple, least_size(model.config.backbone_config))

    def stem(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens [B, S, C]; context: their positions [B, S, C], and the finer maps that the head reads."""
        features = self.model.model.pixel_level_module.encoder(images).feature_maps
        coarse_first = features[::-1][: self.decoder.num_feature_levels]
        projected = [p(f) for p, f in zip(self.decoder.input_projections, coarse_first, strict=True)]
        positions = positions_of(projected, self.decoder.position_embedding, self.decoder.level_embed)
        return tokens_of(projected), (positions, *features[: self.decoder.num_fpn_levels])

    def pooled(self, tokens: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        height, width = self._sizes(context)[0]
        return tokens[:, : height * width].mean(1)

    def head(self, tokens: Tensor, context: tuple[Tensor, ...]) -> dict[str, Tensor]:
        sizes = self._sizes(context)
        levels = tokens.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        maps = [m.reshape(*m.shape[:2], *size) for m, size in zip(levels, sizes, strict=True)]
        fine = maps[-1]
        for lateral, output, feature in zip(
            self.decoder.lateral_convolutions,
            self.decoder.output_convolutions,
            context[:0:-1],
            strict=True,
        ):
            beside = lateral(feature)
            grown = nn.functional.interpolate(fine, size=beside.shape[-2:], mode="bilinear")
            fine = output(beside + grown)
        decoded = self.model.model.transformer_module(maps, self.decoder.mask_projection(fine))
        classes = self.model.class_predictor(decoded.intermediate_hidden_states[-1].transpose(0, 1))
        return {CLASSES: classes, MASKS: decoded.masks_queries_logits[-1]}

    def _sizes(self, context: tuple[Tensor, ...]) -> Sizes:
        """Height and width of each level, coarse to fine, from the finest map that the head reads."""
        strides = self.model.config.feature_strides
        height, width = context[1].shape[-2:]
        coarse_first = strides[::-1][: self.decoder.num_feature_levels]
        return [(height * strides[0] // s, width * strides[0] // s) for s in coarse_first]


def mask2former(model: Any, exits: Sequence[int]) -> EarlyExitModel:
    """The model, a Mask2FormerForUniversalSegmentation, in eval mode, with a gate (that takes all layers, until it is
    trained). Raises InputError for exits that do not end at its last layer."""
    return EarlyExitModel(Mask2FormerEncoder(model), exits, model.config.feature_size).eval()
