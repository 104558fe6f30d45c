"""The example's Mask2Former: its configuration, its input, and how it stops at an exit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from foveate.export import import_transformers
from foveate.runtime.segmentation import CLASSES, MASKS
from torch import Tensor, nn

from examples.eco_m2f.scenes import CATEGORIES

import_transformers()  # first: it mends a torchvision that does not load beside CPU-only torch
from transformers import (  # noqa: E402
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    ResNetConfig,
)

EXITS = (1, 2, 3, 4, 5, 6)  # encoder layers
PARENT = Path(__file__).parent / "parent"
MEAN, STD = 0.5, 0.25  # of pixels in 0 … 1
BACKBONE: dict[str, Any] = {
    "embedding_size": 24,
    "hidden_sizes": [32, 48, 64, 96],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
PREPROCESSING = {
    "rescale_factor": 1 / 255,
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
    "do_resize": False,
}


def new_model() -> nn.Module:
    """A Mask2Former small enough for a CPU, random weights. Its backbone is shallow and narrow, so that what a layer of
    the encoder adds matters."""
    backbone = ResNetConfig(**BACKBONE)
    config: Any = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_layers=EXITS[-1],
        encoder_feedforward_dim=256,
        decoder_layers=4,  # the first predicts from the queries alone
        dim_feedforward=256,
        num_attention_heads=8,
        num_queries=20,
        train_num_points=512,
        id2label=dict(enumerate(CATEGORIES)),
        label2id={name: i for i, name in enumerate(CATEGORIES)},
    )
    return Mask2FormerForUniversalSegmentation(config)


def to_input(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W]."""
    return ((torch.tensor(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD).contiguous()


@contextmanager
def exit_at(model: Any, depth: int) -> Iterator[None]:
    """Within it the model's encoder ends with layer `depth`."""
    encoder = model.model.pixel_level_module.decoder.encoder
    layers = encoder.layers
    encoder.layers = layers[:depth]
    try:
        yield
    finally:
        encoder.layers = layers


def load_parent(folder: Path = PARENT) -> Any:
    return Mask2FormerForUniversalSegmentation.from_pretrained(folder, local_files_only=True).eval()


@torch.inference_mode()
def predict(model: Any, images: np.ndarray, depth: int) -> dict[str, np.ndarray]:
    """uint8 [N, H, W, 3] -> what exit `depth` answers: class_queries_logits [N, Q, C + 1], masks_queries_logits
    [N, Q, H/4, W/4]."""
    with exit_at(model, depth):
        found = model(pixel_values=to_input(images))
    return {name: getattr(found, name).numpy() for name in (CLASSES, MASKS)}
