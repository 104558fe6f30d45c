"""transformers' Deformable DETR as an early-exit encoder: a detector whose depth is chosen per image.

Its layers are the encoder's deformable-attention layers, over the tokens of all levels, fine to coarse; the stem is the
backbone with the projections, the head is the decoder. The gate reads the mean of the coarsest backbone level's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..runtime.errors import InputError
from .deformable_attention import DeformableLayer, Sizes, deformable_attention, positions_of, tokens_of
from .early_exit_model import EarlyExitModel
from .swin import free_sizes, least_size

LOGITS, BOXES = "logits", "pred_boxes"
_EPSILON = 1e-5  # of the inverse sigmoid, as the model was trained with


class DeformableDetrEncoder(nn.Module):
    """An `Encoder` of a DeformableDetrForObjectDetection, whose weights it shares.

    images [B, 3, H, W], H and W multiples of `multiple`, at least `least` -> logits [B, Q, classes], pred_boxes
    [B, Q, 4] as (centre x, centre y, width, height) in shares of the image. All of it is image: no pixel mask."""

    def __init__(self, model: Any):
        super().__init__()
        model.set_attn_implementation("eager")
        free_sizes(model.model.backbone)
        self.model = model.eval()
        self.layers = nn.ModuleList(
            DeformableLayer(layer, self._sizes) for layer in model.model.encoder.layers
        )
        self.multiple = 32
        coarsest = self.multiple * 2 ** (model.config.num_feature_levels - 3)
        self.least = max(2 * coarsest, least_size(model.config.backbone_config))

    def stem(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens [B, S, C]; context: their positions [B, S, C], and [B, 1, H/8, W/8], of which only the size is
        read."""
        base = self.model.model
        features = base.backbone.model(images)
        features = list(features.feature_maps if hasattr(features, "feature_maps") else features)
        projected = [p(f) for p, f in zip(base.input_proj, features, strict=False)]
        below = features[-1]
        for projection in base.input_proj[len(features) :]:
            projected.append(projection(below))
            below = projected[-1]
        positions = positions_of(projected, base.position_embedding, base.level_embed)
        return tokens_of(projected), (positions, projected[0][:, :1])

    def pooled(self, tokens: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        sizes = [height * width for height, width in self._sizes(context)]
        return tokens.split(sizes, dim=1)[2].mean(1)

    def head(self, tokens: Tensor, context: tuple[Tensor, ...]) -> dict[str, Tensor]:
        base, sizes, batch = self.model.model, self._sizes(context), tokens.shape[0]
        where, queries = base.query_position_embeddings.weight.chunk(2, dim=1)
        reference = base.reference_points(where).sigmoid().expand(batch, -1, -1)
        where, answer = where.expand(batch, -1, -1), queries.expand(batch, -1, -1)
        last = reference
        for number, layer in enumerate(base.decoder.layers):
            attended, _ = layer.self_attn(hidden_states=answer, position_embeddings=where)
            answer = layer.self_attn_layer_norm(answer + attended)
            read = deformable_attention(
                layer.encoder_attn, answer + where, tokens, reference[:, :, None], sizes
            )
            answer = layer.encoder_attn_layer_norm(answer + read)
            answer = layer.final_layer_norm(answer + layer.mlp(answer))
            last = reference
            if base.decoder.bbox_embed is not None:
                reference = _refined(reference, base.decoder.bbox_embed[number](answer))
        boxes = _refined(last, self.model.bbox_embed[-1](answer))
        return {LOGITS: self.model.class_embed[-1](answer), BOXES: boxes}

    def _sizes(self, context: tuple[Tensor, ...]) -> Sizes:
        """Height and width of each level, fine to coarse."""
        height, width = context[1].shape[-2:]
        sizes = [(height, width)]
        for _ in range(self.model.config.num_feature_levels - 1):
            height, width = (height + 1) // 2, (width + 1) // 2
            sizes.append((height, width))
        return sizes


def deformable_detr(model: Any, exits: Sequence[int]) -> EarlyExitModel:
    """The detector in eval mode, with a gate (that takes all layers, until it is trained). Raises InputError for a
    two-stage one, one over other than three maps, and for exits that do not end at its last layer."""
    config = model.config
    if config.two_stage or len(getattr(model.model.backbone, "intermediate_channel_sizes", ())) != 3:
        raise InputError(
            "model",
            got="a two-stage Deformable DETR"
            if config.two_stage
            else "a backbone of other than three levels",
            expected="the one-stage kind, over maps of strides 8, 16 and 32",
            fix="Take a checkpoint of DeformableDetrForObjectDetection with two_stage=False.",
        )
    return EarlyExitModel(DeformableDetrEncoder(model), exits, config.d_model).eval()


def _refined(reference: Tensor, by: Tensor) -> Tensor:
    """Boxes [.., 4]: `by`, with the point or box that it is relative to added in logits."""
    share = reference.clamp(0, 1)
    logit = (share.clamp(min=_EPSILON) / (1 - share).clamp(min=_EPSILON)).log()
    return (by + nn.functional.pad(logit, (0, 4 - logit.shape[-1]))).sigmoid()
