"""What benchmarks/exits.py measures: encoders with exits, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from foveate.export import EarlyExitModel, export_program, import_timm, import_transformers, with_exits
from torch import Tensor, nn

STAGES: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
COCO: dict[str, Any] = {"num_labels": 133}


@dataclass(frozen=True)
class Subject:
    """`size`: of the square images. `saved`: the share of the dense time that the first exit is to save, if any.
    `kernel`: a native kernel runs some of its nodes."""

    make: Callable[[], EarlyExitModel]
    size: int
    dynamic: tuple[str, ...] = ("batch", "height", "width")
    saved: float | None = None
    kernel: bool = False


class Transformer(nn.Module):
    """timm's vision transformer as an encoder of stem, layers and head."""

    def __init__(self, name: str):
        super().__init__()
        self.vit: nn.Module = import_timm().create_model(name, pretrained=False)
        self.layers = nn.ModuleList(self.vit.blocks)  # type: ignore[arg-type]

    def stem(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        vit = self.vit
        return vit.norm_pre(vit._pos_embed(vit.patch_embed(images))), ()  # type: ignore[operator]

    def pooled(self, tokens: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        return tokens.mean(1)

    def head(self, tokens: Tensor, context: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"logits": self.vit.forward_head(self.vit.norm(tokens))}  # type: ignore[operator]


def vit(name: str = "vit_small_patch16_224", exits: tuple[int, ...] = (4, 6, 8, 10, 12)) -> EarlyExitModel:
    encoder = Transformer(name)
    return EarlyExitModel(encoder, exits, encoder.vit.embed_dim)  # type: ignore[arg-type]


def full_mask2former(backbone: str) -> EarlyExitModel:
    """Full width, as the published checkpoints: 6 encoder layers of 256 channels, 100 queries, 133 classes."""
    import_transformers()
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

    config = ResNetConfig(**STAGES) if backbone == "r50" else SwinConfig(**STAGES)
    return with_exits(Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=config, **COCO)))


def tiny() -> Subject:
    """To try a benchmark out."""
    return Subject(partial(vit, "test_vit", (2, 4, 6)), 160, ("batch",))


SUBJECTS = {
    "vit-s": Subject(vit, 224, ("batch",)),
    "mask2former-r50": Subject(lambda: full_mask2former("r50"), 512, saved=0.35, kernel=True),
    "mask2former-swin-t": Subject(lambda: full_mask2former("swin-t"), 512, kernel=True),
}


def prepare(program: Path, subject: Subject) -> Path:
    """The program, exported if it is not there; its gate's weights are random and spread the depths."""
    if not program.exists():
        torch.manual_seed(0)
        model = subject.make().eval()
        with torch.no_grad():
            model.gate.weight.normal_()
            model.gate.bias.zero_()
        image = torch.randn(1, 3, subject.size, subject.size)
        export_program(model, image, program, dynamic=subject.dynamic)
    return program
