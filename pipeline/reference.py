"""The dense reference of a bundle: program.onnx, whole, in stock onnxruntime, its decisions laid open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..runtime.manifest import Manifest
from .as_written import is_quantized
from .compare import Keep
from .dense import Dense, DenseSettings
from .masks import Mask, force, margins, masks_of


@dataclass(frozen=True)
class Expected:
    """Of one image: the program's outputs by name, the decisions' keep masks in the manifest's order, and of programs
    in Q/DQ every tensor between the bundle's steps, the image and the outputs among them."""

    outputs: dict[str, np.ndarray]
    keeps: list[Keep]
    borders: dict[str, np.ndarray] = field(default_factory=dict)


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
        self.quantized = is_quantized(onnx.load(program, load_external_data=False))
        if self.quantized:
            tensors += [spec.name for spec in manifest.tensors if spec.name not in tensors]
        self._dense = Dense(program, threads, DenseSettings(exact=True), tensors)

    def __call__(self, image: np.ndarray, choices: Mapping[str, Any] | None = None) -> Expected:
        used = {**self.choices, **(choices or {})}
        values = self._dense(image, used)
        by_decision = {mask.decision.name: mask for mask in self.masks}
        keeps = []
        for decision in self.manifest.decisions:
            keep, mask = values[decision.keep], by_decision.get(decision.name)
            margin = margins(mask, values[decision.logits or ""], keep.shape[2:], used) if mask else None
            keeps.append(Keep(keep, margin))
        outputs = {spec.name: values[spec.name] for spec in self.manifest.outputs}
        borders = {self.manifest.inputs[0].name: image, **values} if self.quantized else {}
        return Expected(outputs, keeps, borders)

    def logits(self, image: np.ndarray) -> list[np.ndarray]:
        """The masks' logits [1, 1, h, w], under the bundle's choices."""
        values = self._dense(image, self.choices)
        return [values[mask.decision.logits or ""] for mask in self.masks]

    def forced(self, image: np.ndarray, fraction: float) -> dict[str, Any]:
        """The bundle's choices, but with thresholds that leave `fraction` of this image's tokens active."""
        return {**self.choices, **force(self.masks, self._dense(image, self.choices), self.choices, fraction)}
