"""What training, evaluation and the deletion test share: inputs, answers, intervals, results.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from foveate.pipeline.files import write_text
from torch import Tensor, nn

HERE = Path(__file__).parent
Z95 = 1.96  # standard normal, two-sided 95 %


def to_input(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], mean and std as the checkpoints' `preprocess` says."""
    x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    return ((x - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def batches(pairs: Iterable[tuple[np.ndarray, int]], size: int = 50) -> Iterator[tuple[Tensor, np.ndarray]]:
    """(image, label) pairs -> (input [size, 3, H, W], labels [size]); the last batch may be smaller."""
    source = iter(pairs)
    while chunk := list(islice(source, size)):
        yield to_input(np.stack([image for image, _ in chunk])), np.array([label for _, label in chunk])


@torch.inference_mode()
def answer(net: nn.Module, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Class [B] and active fraction [B] (1 without a mask) of each image, in float32."""
    classes = net(x).argmax(1).numpy()
    masks = list(getattr(net, "masks", []))
    active = masks[0].active_fraction().numpy() if masks else np.ones(len(classes))
    return classes, active


def wilson(correct: np.ndarray) -> list[float]:
    """95 % interval of the share of true values."""
    n, p = len(correct), float(np.mean(correct))
    center, spread = p + Z95**2 / (2 * n), Z95 * np.sqrt(p * (1 - p) / n + (Z95 / (2 * n)) ** 2)
    return [round(float(v / (1 + Z95**2 / n)), 4) for v in (center - spread, center + spread)]


def mean_interval(values: np.ndarray) -> list[float]:
    """95 % interval of the mean of per-image values."""
    mean, half = float(np.mean(values)), Z95 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return [round(mean - half, 4), round(mean + half, 4)]


def update_results(section: str, facts: dict, path: Path = HERE / "results.json") -> None:
    """Replaces one section of results.json and keeps the others."""
    results = json.loads(path.read_text()) if path.exists() else {}
    write_text(path, json.dumps({**results, section: facts}, indent=1) + "\n")
