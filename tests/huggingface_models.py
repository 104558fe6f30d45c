"""Small Hugging Face models with random weights, of the architectures that have adapters."""

from __future__ import annotations

from typing import Any

import torch
from foveate.export import import_transformers

EXITS = (1, 2, 3)
_SMALL = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 48,
    "dim_feedforward": 48,
    "num_attention_heads": 4,
    "num_queries": 7,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "num_labels": 5,
}


def small_mask2former(backbone: str = "resnet", **changes: Any) -> Any:
    """Mask2Former over "resnet" or "swin"."""
    import_transformers()
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    windows: dict[str, Any] = {"out_features": _stages(1, 5)}
    swin = SwinConfig(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], **windows)
    config = Mask2FormerConfig(
        backbone_config=swin if backbone == "swin" else _resnet(1), **{**_SMALL, **changes}
    )
    return _random(Mask2FormerForUniversalSegmentation, config)


def small_deformable_detr(**changes: Any) -> Any:
    import_transformers()
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    small: dict[str, Any] = {
        "d_model": 32,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "num_queries": 7,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "num_labels": 5,
        "use_timm_backbone": False,
        **changes,
    }
    config = DeformableDetrConfig(backbone_config=_resnet(2), **small)
    return _random(DeformableDetrForObjectDetection, config)


def _resnet(first: int) -> Any:
    from transformers import ResNetConfig

    small: dict[str, Any] = {"hidden_sizes": [8, 16, 16, 24], "out_features": _stages(first, 5)}
    return ResNetConfig(embedding_size=8, depths=[1] * 4, layer_type="basic", **small)


def _stages(first: int, end: int) -> list[str]:
    return [f"stage{number}" for number in range(first, end)]


def _random(kind: Any, config: Any) -> Any:
    """Sampling offsets begin as constants: noise makes each query look elsewhere."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.tie_weights()
    return model
