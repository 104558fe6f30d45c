"""An encoder that images leave early: any network of a stem, layers and a head, with a gate that says when."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from ..runtime.errors import InputError
from .early_exit import exit_gate, exit_select

FORCED = 1e6  # an offset above any score


class Encoder(Protocol):
    """What `EarlyExitModel` needs of a network. `context` is what the layers and the head read beside the tokens and
    leave as it is: positions, skipped features; a tuple of tensors, maybe empty."""

    layers: nn.ModuleList  # layer(tokens, *context) -> tokens

    def stem(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[B, C, H, W] -> tokens [B, …], context."""
        ...

    def pooled(self, tokens: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """What the gate reads, of the stem's tokens: [B, D]."""
        ...

    def head(self, tokens: Tensor, context: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The answer, by name."""
        ...


class ExitGateLayer(nn.Module):
    """features [B, D] -> depth [B] int64, one of `exits` (formulas: `exit_gate`).

    `weight` [K·D], `bias` and `offset` [K] are choices: inputs of the exported program. A new gate chooses the deepest
    exit. After a forward pass `scores` [B, K] holds that pass's, differentiable.
    """

    offset: Tensor

    def __init__(self, channels: int, exits: Sequence[int]):
        super().__init__()
        self.channels, self.exits = channels, check_exits(exits)
        self.weight = nn.Parameter(torch.zeros(len(self.exits) * channels))
        self.bias = nn.Parameter(torch.zeros(len(self.exits)))
        with torch.no_grad():
            self.bias[-1] = 1.0
        self.register_buffer("offset", torch.zeros(len(self.exits)))
        self.scores: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        depth, scores = exit_gate(features, self.weight, self.bias, self.offset, self.exits)
        if not torch.compiler.is_exporting():
            self.scores = scores
        return depth

    def extra_repr(self) -> str:
        return f"{self.channels}, exits={self.exits}"

    def __getstate__(self) -> dict:
        """What a copy takes along: all but the last pass's scores, which belong to an autograd graph."""
        return {**self.__dict__, "scores": None}


class EarlyExitModel(nn.Module):
    """images [B, C, H, W] -> the encoder's answer, each image by the layers that its gate chose.

    Every layer is computed, and then selected from: this is the dense reference that is exported. `truncated` runs
    one depth for all. exits: numbers of layers, rising, the last one all of them. Raises InputError for others.
    """

    def __init__(self, encoder: nn.Module, exits: Sequence[int], channels: int):
        """encoder: an `Encoder`; channels: D of its `pooled`."""
        super().__init__()
        self.encoder = encoder
        self.gate = ExitGateLayer(channels, exits)
        layers = len(encoder.layers)  # type: ignore[arg-type]
        if self.gate.exits[-1] != layers:
            raise InputError(
                "exits",
                got=f"{self.gate.exits}, of an encoder with {layers} layers",
                expected=f"the last exit behind all {layers}",
                fix="End the list with it: an image that leaves nowhere takes all layers.",
            )

    @property
    def multiple(self) -> int:
        """Of which heights and widths must be one: the encoder's attribute, else 1."""
        return getattr(self.encoder, "multiple", 1)

    @property
    def least(self) -> int:
        """The smallest height and width: the encoder's attribute, else `multiple`."""
        return getattr(self.encoder, "least", self.multiple)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        tokens, context = self.encoder.stem(images)  # type: ignore[operator]
        depth = self.gate(self.encoder.pooled(tokens, context))  # type: ignore[operator]
        left = {}
        for number, layer in enumerate(self.encoder.layers, 1):  # type: ignore[arg-type]
            tokens = layer(tokens, *context)
            left[number] = tokens
        for exit in reversed(self.gate.exits[:-1]):
            tokens = exit_select(depth, left[exit], tokens, exit)
        return {**self.encoder.head(tokens, context), "depth": depth}  # type: ignore[operator]

    def truncated(self, images: Tensor, depth: int) -> dict[str, Tensor]:
        """The answer behind `depth` layers, for all images. Raises InputError for a depth that is no exit."""
        _check_depth(depth, self.gate.exits)
        tokens, context = self.encoder.stem(images)  # type: ignore[operator]
        for layer in list(self.encoder.layers)[:depth]:  # type: ignore[arg-type]
            tokens = layer(tokens, *context)
        return self.encoder.head(tokens, context)  # type: ignore[operator]

    def every_exit(self, images: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """What the gate reads [B, D], and the answer at each exit."""
        tokens, context = self.encoder.stem(images)  # type: ignore[operator]
        features, answers = self.encoder.pooled(tokens, context), []  # type: ignore[operator]
        for number, layer in enumerate(self.encoder.layers, 1):  # type: ignore[arg-type]
            tokens = layer(tokens, *context)
            if number in self.gate.exits:
                answers.append(self.encoder.head(tokens, context))  # type: ignore[operator]
        return features, answers


def check_exits(exits: Sequence[int]) -> list[int]:
    """Raises InputError unless they rise from 1 or more."""
    found = [int(e) for e in exits]
    if len(found) < 2 or found[0] < 1 or any(a >= b for a, b in pairwise(found)):
        raise InputError(
            "exits",
            got=str(list(exits)),
            expected="two or more numbers of layers, each larger than the one before, the first at least 1",
            fix="For example exits=(2, 3, 4, 5, 6).",
        )
    return found


def forcing(exits: Sequence[int], depth: int) -> list[float]:
    """The gate's offset that sends every image to this exit. Raises InputError for a depth that is none."""
    _check_depth(depth, exits)
    return [FORCED if e == depth else 0.0 for e in exits]


def _check_depth(depth: int, exits: Sequence[int]) -> None:
    if depth not in exits:
        raise InputError("depth", got=str(depth), expected=f"one of {list(exits)}", fix="Take an exit.")
