"""The dense reference of a bundle: program.onnx, whole, in stock onnxruntime, its decisions laid open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.manifest import Manifest
from .compare import Keep
from .dense import Dense, DenseSettings
from .masks import Mask, force, margins, masks_of


@dataclass(frozen=True)
class Expected:
    """Of one image: the program's outputs by name, and the decisions' keep masks in the manifest's order."""

    outputs: dict[str, np.ndarray]
    keeps: list[Keep]


@dataclass(frozen=True)
class Case:
    """An image, by the name of the program's input, and the values that choices have for it."""

    name: str
    feeds: Mapping[str, np.ndarray]
    choices: Mapping[str, Any]


class Reference:
    """`reference(image, choices)` -> Expected. `choices` are the bundle's own values by name; `quantized` says whether
    the program is in Q/DQ, which is computed as written."""

    def __init__(self, bundle: Path, manifest: Manifest, threads: int):
        self.manifest = manifest
        self.choices: dict[str, Any] = {choice.name: choice.value for choice in manifest.choices}
        program = bundle / manifest.program
        self.masks: tuple[Mask, ...] = masks_of(manifest, program)
        tensors = [t for d in manifest.decisions for t in (d.keep, d.logits) if t is not None]
        self._dense = Dense(program, threads, DenseSettings(exact=True), tensors)
        self.quantized = self._dense.settings.exact

    def __call__(self, image: np.ndarray, choices: Mapping[str, Any] | None = None) -> Expected:
        used = {**self.choices, **(choices or {})}
        values = self._dense(image, used)
        by_decision = {mask.decision.name: mask for mask in self.masks}
        keeps = []
        for decision in self.manifest.decisions:
            keep, mask = values[decision.keep], by_decision.get(decision.name)
            margin = margins(mask, values[decision.logits or ""], keep.shape[2:], used) if mask else None
            keeps.append(Keep(keep, margin))
        return Expected({spec.name: values[spec.name] for spec in self.manifest.outputs}, keeps)

    def logits(self, image: np.ndarray) -> list[np.ndarray]:
        """The masks' logits [1, 1, h, w], under the bundle's choices."""
        values = self._dense(image, self.choices)
        return [values[mask.decision.logits or ""] for mask in self.masks]

    def forced(self, image: np.ndarray, fraction: float) -> dict[str, Any]:
        """The bundle's choices, but with thresholds that leave `fraction` of this image's tokens active."""
        return {**self.choices, **force(self.masks, self._dense(image, self.choices), self.choices, fraction)}
