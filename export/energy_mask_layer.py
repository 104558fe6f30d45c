"""The module that decides, in a network, which positions of a feature map later layers compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .energy_mask import energy_mask


class EnergyMaskLayer(nn.Module):
    """x [B, C, H, W] -> keep [B, 1, H, W] in x's dtype (formulas and gradient: `energy_mask`).

    `threshold`, `temperature`, `lam` and `gamma` are choices: 0-d buffers, inputs of the exported program.
    `patch` and `soft` are structure. The layer starts open (bias −4: m ≈ 0.98), so that inserting it into a
    trained network changes nothing at first. After a forward pass `logits` and `energy` [B, 1, ⌈H/p⌉, ⌈W/p⌉]
    hold that pass's values.
    """

    threshold: Tensor
    temperature: Tensor
    lam: Tensor
    gamma: Tensor

    def __init__(
        self,
        channels: int,
        patch: int = 1,
        threshold: float = 0.5,
        temperature: float = 1.0,
        lam: float = 1e-3,
        gamma: float = 1e-3,
        soft: bool = False,
        start: float = -4.0,
    ):
        super().__init__()
        self.channels, self.patch, self.soft = channels, patch, soft
        self.weight = nn.Parameter(torch.zeros(1, channels * patch**2, 1, 1))
        self.bias = nn.Parameter(torch.full((1,), start))
        choices = {"threshold": threshold, "temperature": temperature, "lam": lam, "gamma": gamma}
        for name, value in choices.items():
            self.register_buffer(name, torch.tensor(float(value)))
        self.logits: Tensor | None = None
        self.energy: Tensor | None = None
        self.active: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        choices = (self.threshold, self.temperature, self.lam, self.gamma)
        with torch.autocast(x.device.type, enabled=False):
            keep, logits, energy = energy_mask(x, self.weight, self.bias, *choices, self.patch, self.soft)
        if not torch.compiler.is_exporting():
            self.logits, self.energy = logits, energy
            self.active = keep.detach().count_nonzero((1, 2, 3)) / (x.shape[2] * x.shape[3])
        return keep

    def last_logits(self) -> Tensor:
        """z of the last forward pass [B, 1, ⌈H/p⌉, ⌈W/p⌉], differentiable."""
        return _of_last_pass(self.logits)

    def probability(self) -> Tensor:
        """m of the last forward pass [B, 1, ⌈H/p⌉, ⌈W/p⌉]."""
        return torch.sigmoid(-self.last_logits() / self.temperature)

    def energy_loss(self) -> Tensor:
        """mean(m · E) of the last forward pass, differentiable: the paper's regulariser."""
        return (self.probability() * _of_last_pass(self.energy)).mean()

    def active_fraction(self) -> Tensor:
        """Kept share of each image's positions in the last forward pass [B]: this layer's own decision."""
        return _of_last_pass(self.active)

    def extra_repr(self) -> str:
        return f"{self.channels}, patch={self.patch}, threshold={self.threshold.item():g}, soft={self.soft}"

    def __getstate__(self) -> dict:
        """What a copy takes along: all but the last pass's tensors, which belong to an autograd graph."""
        return {**self.__dict__, "logits": None, "energy": None, "active": None}


def _of_last_pass(value: Tensor | None) -> Tensor:
    if value is None:
        raise RuntimeError("EnergyMaskLayer has decided nothing yet: run a forward pass first")
    return value
