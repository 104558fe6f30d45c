"""What a gate learns from: of each image the features that it reads, and how good the answer of every exit is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from ..export.early_exit_model import EarlyExitModel

# The quality of one image's answer (arrays by name, with a batch of one) against its label: larger is better.
Quality = Callable[[Mapping[str, np.ndarray], Any], float]


@dataclass(frozen=True)
class ExitData:
    """features: float32 [N, D]; quality: float64 [N, K], of each exit; exits: layers, [K]."""

    features: np.ndarray
    quality: np.ndarray
    exits: tuple[int, ...]

    def __post_init__(self) -> None:
        fits = self.features.ndim == self.quality.ndim == 2 and len(self.features) == len(self.quality) > 0
        if not fits or self.quality.shape[1] != len(self.exits):
            raise InputError(
                "exit data",
                got=f"features {list(self.features.shape)}, quality {list(self.quality.shape)}",
                expected=f"[N, D] and [N, {len(self.exits)}], at least one image",
                fix="Collect them again.",
            )
        if not (np.isfinite(self.features).all() and np.isfinite(self.quality).all()):
            raise InputError(
                "exit data", got="NaN or infinity", expected="finite numbers", fix="Check metric and images."
            )

    @property
    def gained(self) -> np.ndarray:
        """[N, K]: quality at each exit, over the image's mean of all."""
        return self.quality - self.quality.mean(axis=1, keepdims=True)

    def of(self, images: np.ndarray) -> ExitData:
        """These images alone: indices, or bool [N]."""
        return ExitData(self.features[images], self.quality[images], self.exits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """As npz, written whole or not at all."""
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, features=self.features, quality=self.quality, exits=np.array(self.exits))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ExitData:
        """Raises InputError for a file that is none."""
        try:
            with np.load(path, allow_pickle=False) as found:
                parts = found["features"], found["quality"], tuple(found["exits"].tolist())
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(
                f"exit data {path}",
                got=f"{type(error).__name__}: {error}",
                expected="a file that ExitData.save wrote",
                fix="Collect it again.",
            ) from error
        return ExitData(*parts)


def collect_exits(model: EarlyExitModel, batches: Iterable[tuple[Tensor, Any]], quality: Quality) -> ExitData:
    """Runs each batch (images [B, C, H, W] and B labels) once through all layers, with the head at every exit.

    Once for all budgets: a gate for another one learns from the same data (ECO-M2F, arXiv 2404.15244, step B)."""
    import torch

    was_training = model.training
    model.eval()
    features, found = [], []
    try:
        with torch.no_grad():
            for images, labels in batches:
                read, answers = model.every_exit(images)
                features.append(read.float().cpu().numpy())
                found += [
                    [quality({k: v[i : i + 1].cpu().numpy() for k, v in a.items()}, label) for a in answers]
                    for i, label in enumerate(labels)
                ]
    finally:
        model.train(was_training)
    if not features:
        raise InputError("batches", got="none", expected="at least one", fix="Pass images and labels.")
    return ExitData(np.concatenate(features), np.array(found, np.float64), tuple(model.gate.exits))
