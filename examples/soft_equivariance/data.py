"""Fashion-MNIST on a black canvas, and its rotations."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.ersm.data import CLASSES, load_garments

MEAN, STD = 0.25, 0.35  # of the canvas's pixels in 0 … 1, about
TILT = 30.0  # degrees, the most of a random rotation
VALIDATION = 10_000  # of the 60,000 training images, kept from training to choose on
SEED = 0  # of the draw

__all__ = ["CLASSES", "TILT", "augmented", "blurred", "load", "tilted", "to_input"]


def load(split: str, path: str | None = None) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 28, 28] and labels int64 [N]: "train" and "validation", which share Fashion-MNIST's training
    images between them, the same every time, or "test", its test images."""
    garments = load_garments("test" if split == "test" else "train", path)
    count = len(garments.labels)
    order = np.arange(count) if split == "test" else np.random.default_rng(SEED).permutation(count)
    chosen = {"train": order[VALIDATION:], "validation": order[:VALIDATION], "test": order}[split]
    return torch.from_numpy(garments.grey[chosen]), torch.from_numpy(garments.labels[chosen])


def to_input(images: Tensor, size: int) -> Tensor:
    """uint8 [N, 28, 28] -> float32 [N, 1, size, size], in the middle of a black canvas."""
    margin = size - images.shape[1]
    around = (margin // 2, margin - margin // 2)
    return (F.pad(images[:, None].float() / 255, around * 2) - MEAN) / STD


def augmented(x: Tensor, random: np.random.Generator) -> Tensor:
    """Each image mirrored or not, and turned by a multiple of 90°; every other one, on the mean, tilted besides. The
    batch is moved by up to two pixels."""
    mirrored = torch.from_numpy(random.random(len(x)) < 0.5)
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    tilts = random.uniform(-TILT, TILT, len(x)) * (random.random(len(x)) < 0.5)
    x = turned(x, 90 * random.integers(4, size=len(x)) + tilts)
    return x.roll(tuple(random.integers(-2, 3, size=2).tolist()), (2, 3))


def tilted(x: Tensor, seed: int) -> Tensor:
    """Each image turned by an angle of its own within ±30°."""
    return turned(x, _tilts(x, seed))


def blurred(x: Tensor, seed: int) -> Tensor:
    """Each image `tilted` and turned back: upright, and resampled twice."""
    return turned(tilted(x, seed), -_tilts(x, seed))


def _tilts(x: Tensor, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-TILT, TILT, len(x))


def turned(x: Tensor, degrees: np.ndarray) -> Tensor:
    """Each image by its angle, bilinearly; black beyond the canvas."""
    c, s, o = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.zeros(len(x))
    turns = torch.tensor(np.stack([np.stack([c, -s, o], 1), np.stack([s, c, o], 1)], 1), dtype=x.dtype)
    grid = F.affine_grid(turns, list(x.shape), align_corners=False)
    return F.grid_sample(x * STD + MEAN, grid, align_corners=False).sub(MEAN).div(STD)
