"""Training the gate of an early-exit encoder in seconds, for any price of a layer (ECO-M2F, arXiv 2404.15244, step C).

wanted exit of an image: argmax over exits k of (quality at k − beta · k), the shallower one of equals
gate: one linear layer, cross-entropy against it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.errors import InputError
from .exit_data import ExitData

_DECAY = 1e-3  # of the weights on standardised features: few images and hundreds of channels
_STEPS, _CLOSE = 200, 1e-5  # of L-BFGS, at most, and the gradient at which it ends


@dataclass(frozen=True)
class Gate:
    """weight [K, D] and bias [K] for a price of `beta` in quality for each layer; None: all images take all layers."""

    beta: float | None
    weight: np.ndarray
    bias: np.ndarray
    exits: tuple[int, ...]

    def depths(self, features: np.ndarray) -> np.ndarray:
        """[N]: the layers that it gives images of these features [N, D]."""
        return np.asarray(self.exits)[np.argmax(features @ self.weight.T + self.bias, axis=1)]

    def choices(self, name: str = "gate") -> dict[str, list[float]]:
        """For `Model.set_choices`, of a program whose gate has this name."""
        return {f"{name}.weight": self.weight.ravel().tolist(), f"{name}.bias": self.bias.tolist()}


def train_gate(data: ExitData, beta: float) -> Gate:
    """Deterministic. Raises InputError for a beta that is negative or not finite."""
    import torch

    if not (np.isfinite(beta) and beta >= 0):
        raise InputError(
            "beta", got=str(beta), expected="0 or more, in quality for each layer", fix="Try 0.01."
        )
    target = torch.tensor(np.argmax(data.quality - beta * np.asarray(data.exits), axis=1))
    mean, spread = data.features.mean(axis=0), data.features.std(axis=0) + 1e-6
    features = torch.tensor((data.features - mean) / spread, dtype=torch.float64)
    layer = torch.nn.Linear(features.shape[1], len(data.exits), dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=_STEPS, tolerance_grad=_CLOSE, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(layer(features), target)
        value = value + _DECAY * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        weight = layer.weight.numpy() / spread
        bias = layer.bias.numpy() - weight @ mean
    return Gate(beta, weight.astype(np.float32), bias.astype(np.float32), data.exits)


@dataclass(frozen=True)
class Operating:
    """Where a gate stands on data: mean depth and quality, and what the same mean depth gives without a gate. `fixed`:
    every image at one depth, between two exits by interpolation; `random`: depths as the gate's, dealt at random."""

    beta: float | None
    depth: float
    quality: float
    fixed: float
    random: float
    shares: Mapping[int, float]  # of the images, by exit


def operating_point(gate: Gate, data: ExitData) -> Operating:
    """`data` should be images that the gate did not learn from."""
    exits, depths = np.asarray(data.exits), gate.depths(data.features)
    at = np.searchsorted(exits, depths)
    of_each = data.quality.mean(axis=0)
    shares = np.bincount(at, minlength=len(exits)) / len(at)
    return Operating(
        gate.beta,
        float(depths.mean()),
        float(data.quality[np.arange(len(at)), at].mean()),
        float(np.interp(depths.mean(), exits, of_each)),
        float(shares @ of_each),
        {int(k): float(share) for k, share in zip(exits, shares, strict=True)},
    )


def trade_off(train: ExitData, held_out: ExitData, betas: Sequence[float]) -> list[tuple[Gate, Operating]]:
    """A gate for each beta, and where it stands on images that it has not seen."""
    gates = [train_gate(train, beta) for beta in betas]
    return [(gate, operating_point(gate, held_out)) for gate in gates]
