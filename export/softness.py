"""A softened tensor: what it was softened to, how it falls into linear maps, its error, its bound. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from . import equivariance
from .groups import FIELDS, Element, Group, Space


@dataclass(frozen=True)
class Softness:
    """What a tensor was softened to. `inputs` and `outputs` are fields of the layer's channels. `kind`: "kernel"
    [out, in, grid, grid] or [out, in], "bias" [out], "embedding" [1, prefix + grid², D], or "mask"
    [1, grid² · C, 1, 1], an energy mask's weight for patches."""

    kind: str
    group: str
    softness: float
    cut: bool = False
    inputs: str = "scalar"
    outputs: str = "scalar"
    grid: int = 1

    @property
    def spaces(self) -> tuple[Space, Space]:
        """What the tensor's blocks map from and to. A bias, and an embedding, is a constant map."""
        return Space(self.inputs, self.grid), Space(self.outputs)

    def matrix(self) -> np.ndarray:
        """float64 [n, n], symmetric, that every block is multiplied by."""
        return equivariance.damping(Group(self.group), *self.spaces, self.softness, self.cut)

    def blocks(self, tensor: Any) -> Any:
        """An array's or torch tensor's blocks [..., outputs · inputs]: a row is one map from input to output fields."""
        if self.kind == "embedding":
            return tensor[0, tensor.shape[1] - self.grid**2 :].T
        if self.kind == "mask":
            return tensor.reshape(self.grid**2, -1).T
        y, x = FIELDS[self.outputs], FIELDS[self.inputs]
        parts = tensor.reshape(tensor.shape[0] // y, y, -1, x * self.grid**2).swapaxes(1, 2)
        return parts.reshape(*parts.shape[:2], -1)


@dataclass(frozen=True)
class SoftTensor:
    """A softened tensor: its name as in the plain network's state dict, and its values as the network computes with
    them, float64."""

    name: str
    softness: Softness
    values: np.ndarray

    def with_values(self, values: np.ndarray) -> SoftTensor:
        return replace(self, values=np.asarray(values, np.float64))

    def error(self, element: Element) -> float:
        """`equivariance.error` of these weights."""
        return equivariance.error(self.softness.blocks(self.values), element, *self.softness.spaces)

    def bound(self) -> float:
        """`equivariance.bound` of these weights."""
        blocks = self.softness.blocks(self.values)
        return equivariance.bound(blocks, Group(self.softness.group), *self.softness.spaces)

    def facts(self) -> dict[str, Any]:
        """As a program's metadata holds it."""
        return {"tensor": self.name, **asdict(self.softness), "bound": self.bound()}
