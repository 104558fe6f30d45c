"""The example's digits, canvases and network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).parent
CHECKPOINT = HERE / "digit.safetensors"
CANVAS, DIGIT = 64, 20  # px; MNIST's digits have 20, too
FRAMES = 10


def load_digits(train: bool) -> tuple[Tensor, Tensor]:
    """float32 [n, 20, 20] in 0 … 1 with their labels [n]: the last 360 of scikit-learn's 1797 digits are for testing.

    They are given as 8 × 8 counts of ink: enlarged, with the contrast that ink has."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    chosen = np.s_[:-360] if train else np.s_[-360:]
    ink = torch.from_numpy(found.images[chosen] / 16).float()[:, None]
    ink = F.interpolate(ink, size=(DIGIT, DIGIT), mode="bicubic", align_corners=False)[:, 0]
    return (2 * ink - 0.5).clip(0, 1), torch.from_numpy(found.target[chosen])


def place(digits: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    """[n, 1, 64, 64]: each digit [20, 20] alone on a black canvas."""
    canvas = torch.zeros(len(digits), 1, CANVAS, CANVAS)
    for image, digit, top, left in zip(canvas, digits, tops, lefts, strict=True):
        image[0, top : top + DIGIT, left : left + DIGIT] = digit
    return canvas


def shifted(digit: Tensor) -> np.ndarray:
    """float32 [10, 1, 1, 64, 64], the frames of the paper's demo: a digit [20, 20] goes from the left to the right."""
    lefts = torch.linspace(0, CANVAS - DIGIT, FRAMES).round().long()
    tops = torch.full_like(lefts, (CANVAS - DIGIT) // 2)
    return place(digit.expand(FRAMES, -1, -1), tops, lefts)[:, None].numpy()


def network(channels: tuple[int, int] = (32, 64), hidden: int = 128) -> nn.Sequential:
    """conv, pool, conv, pool and two linear layers, [n, 1, 64, 64] -> [n, 10]."""
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (CANVAS // 4) ** 2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )
