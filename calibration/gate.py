"""Training the gate of an early-exit encoder in seconds, for any price of a layer (ECO-M2F, arXiv 2404.15244, step C).

wanted of a gate: on images that it has not seen, the largest mean of (quality at exit k − beta · k)

One linear layer, in one of two trainings, of which the data decides by cross-validation (`judged`):

regression      a ridge regression of the quality at every exit; the gate takes the largest (prediction − beta · k).
                Where the features tell little, it shrinks to the mean qualities: to one depth for all. One for all
                prices: a higher one never sends an image deeper.
classification  the paper's: cross-entropy against the exit of the largest (quality − beta · k). Two exits of almost one
                quality matter to it as much as a failure, so that on noise it comes out behind one depth for all; it is
                ahead where the features tell well which exit an image needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.errors import InputError
from .exit_data import ExitData

if TYPE_CHECKING:
    import torch

_PENALTIES = np.geomspace(
    1e-4, 1e3, 29
)  # of the regression; of a feature of variance 1 the largest leaves nothing
_DECAY = 1e-2  # of the classification's weights on standardised features
_STEPS, _CLOSE = 200, 1e-5  # of L-BFGS, at most, and the gradient at which it ends


@dataclass(frozen=True)
class Gate:
    """weight [K, D] and bias [K] for a price of `beta` in quality for each layer; None: all images take one exit."""

    beta: float | None
    weight: np.ndarray
    bias: np.ndarray
    exits: tuple[int, ...]

    def scores(self, features: np.ndarray) -> np.ndarray:
        """[N, K] of features [N, D]."""
        return features @ self.weight.T + self.bias

    def depths(self, features: np.ndarray) -> np.ndarray:
        """[N]: the layers that it gives images of these features [N, D]."""
        return np.asarray(self.exits)[np.argmax(self.scores(features), axis=1)]

    def choices(self, name: str = "gate") -> dict[str, list[float]]:
        """For `Model.set_choices`, of a program whose gate has this name."""
        return {f"{name}.weight": self.weight.ravel().tolist(), f"{name}.bias": self.bias.tolist()}


def one_depth(exits: Sequence[int], depth: int, channels: int) -> Gate:
    """Sends every image to this exit, whatever its features [N, channels]."""
    bias = (np.asarray(exits) == depth).astype(np.float32)
    return Gate(None, np.zeros((len(bias), channels), np.float32), bias, tuple(exits))


def train_gates(data: ExitData, betas: Sequence[float], training: str = "regression") -> list[Gate]:
    """One for each price, by a name of `TRAININGS`. Deterministic. Raises InputError for a beta that is negative or not
    finite."""
    for beta in betas:
        if not (np.isfinite(beta) and beta >= 0):
            raise InputError(
                "beta", got=str(beta), expected="0 or more, in quality for each layer", fix="Try 0.01."
            )
    mean, spread = data.features.mean(axis=0), data.features.std(axis=0) + 1e-6
    features = ((data.features - mean) / spread).astype(np.float64)
    gates = []
    for beta, (weight, bias) in zip(betas, TRAININGS[training](features, data, betas), strict=True):
        weight = weight / spread
        bias = bias - weight @ mean
        gates.append(Gate(beta, weight.astype(np.float32), bias.astype(np.float32), data.exits))
    return gates


_Layers = list[tuple[np.ndarray, np.ndarray]]  # weight [K, D] and bias [K] for each price


def _regression(features: np.ndarray, data: ExitData, betas: Sequence[float]) -> _Layers:
    usual = data.gained.mean(axis=0)
    weight = _ridge(features, data.gained - usual)
    return [(weight, usual - beta * np.asarray(data.exits)) for beta in betas]


def _ridge(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """weight [K, D], with the penalty of the least leave-one-out error; features [N, D] and targets [N, K] have mean 0.

    On the axes of the features' covariance a penalty costs two products, and an image's error without itself is its
    error ÷ (1 − its leverage)."""
    count = len(features)
    variance, axes = np.linalg.eigh(features.T @ features / count)
    turned = features @ axes
    moments = turned.T @ targets / count

    def error(penalty: float) -> float:
        shrunk = 1 / (np.maximum(variance, 0) + penalty)
        leverage = (1 + np.square(turned) @ shrunk) / count
        left = targets - turned @ (shrunk[:, None] * moments)
        return float(np.square(left / np.maximum(1 - leverage, 1e-9)[:, None]).mean())

    best = min(_PENALTIES[::-1], key=error)
    return (axes @ (moments / (np.maximum(variance, 0) + best)[:, None])).T


def _classification(features: np.ndarray, data: ExitData, betas: Sequence[float]) -> _Layers:
    import torch

    inputs, found = torch.tensor(features), []
    for beta in betas:
        target = torch.tensor(np.argmax(data.quality - beta * np.asarray(data.exits), axis=1))
        layer = torch.nn.Linear(features.shape[1], len(data.exits), dtype=torch.float64)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        _minimize(
            layer,
            lambda layer=layer, target=target: (
                torch.nn.functional.cross_entropy(layer(inputs), target)
                + _DECAY * layer.weight.square().sum()
            ),
        )
        found.append((layer.weight.detach().numpy(), layer.bias.detach().numpy()))
    return found


def _minimize(layer: torch.nn.Linear, loss: Callable[[], torch.Tensor]) -> None:
    import torch

    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=_STEPS, tolerance_grad=_CLOSE, line_search_fn="strong_wolfe"
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(step)


TRAININGS: Mapping[str, Callable[[np.ndarray, ExitData, Sequence[float]], _Layers]] = MappingProxyType(
    {"regression": _regression, "classification": _classification}
)
