"""A masked network whose mask is given from outside, so that a benchmark can set any active set exactly.

The mask layer scores a second input, `hint` (1 = active, −1 = not), instead of the features; everything else is the
masked network as it is exported for real.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from foveate.export import EnergyMaskLayer, export_program, insert_energy_mask
from foveate.export.insert import Persist
from foveate.export.models import ResidualNet, resnet34_body


def steer(
    net: ResidualNet, sample: torch.Tensor, *, persist: Persist = "conv", stride: int = 4
) -> torch.fx.GraphModule:
    """`net` with a mask behind its stem that follows `hint` [B, 1, H, W], pooled by the stem's stride: (images, hint)
    -> outputs."""
    masked = insert_energy_mask(net, after="stem", persist=persist, sample=sample)
    layer = EnergyMaskLayer(1)
    torch.nn.init.constant_(layer.weight, -8.0)  # z = −8·hint: m is 0.9997 or 0.0003
    torch.nn.init.constant_(layer.bias, 0.0)
    masked.mask0 = layer
    images = next(node for node in masked.graph.nodes if node.op == "placeholder")
    with masked.graph.inserting_after(images):
        hint = masked.graph.placeholder("hint")
    decision = next(node for node in masked.graph.nodes if node.target == "mask0")
    with masked.graph.inserting_before(decision):
        decision.args = (masked.graph.call_function(_steered, (decision.args[0], hint, stride)),)
    masked.recompile()
    return masked.eval()


@torch.fx.wrap
def _steered(features: torch.Tensor, hint: torch.Tensor, stride: int) -> torch.Tensor:
    """The hint at the features' resolution. It reads the features, as a real mask does, so the stem stays dense."""
    return F.max_pool2d(hint, stride, stride) + 1e-6 * features[:, :1]


def export_resnet34(
    folder: Path, size: int, persist: Persist = "conv", *, stem: bool = True
) -> tuple[Path, Path]:
    """The baseline and the steered program of the ResNet-34 body, for images of `size` × `size` at first, in `folder`.
    Without its stem, it reads the stem's features, [1, 64, size/4, size/4]."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (1, 3, size, size) if stem else (1, 64, size // 4, size // 4)
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def network() -> ResidualNet:
        net = resnet34_body()
        net.stem = net.stem if stem else torch.nn.ReLU()
        return net

    baseline = export_program(network(), sample, folder / "baseline.onnx")
    masked = steer(network(), sample, persist=persist, stride=4 if stem else 1)
    hint = torch.ones(1, 1, *shape[2:])
    return baseline, export_program(masked, (sample, hint), folder / "masked.onnx")


def ellipse(side: int, fraction: float, aspect: float = 1.4, wide: int = 0) -> np.ndarray:
    """bool [side, side], or [side, wide]: one compact object that covers `fraction` of the map."""
    shape = side, wide or side
    if fraction >= 1:
        return np.ones(shape, bool)
    y, x = (np.mgrid[: shape[0], : shape[1]].transpose(1, 2, 0) + 0.5 - np.divide(shape, 2)).transpose(
        2, 0, 1
    )
    squared = fraction * shape[0] * shape[1] / np.pi
    return (y / aspect**-0.5) ** 2 + (x / aspect**0.5) ** 2 <= squared


def blobs(side: int, fraction: float, seed: int = 0, count: int = 4) -> np.ndarray:
    """bool [side, side]: `count` irregular regions that cover about `fraction` of the map."""
    if fraction >= 1:
        return np.ones((side, side), bool)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    height = np.full((side, side), -np.inf)
    for _ in range(count):
        cy, cx = rng.uniform(0.15, 0.85, 2) * side
        angle = np.arctan2(y - cy, x - cx)
        waves = sum(rng.uniform(0, 0.25) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6))
        radius = np.hypot(y - cy, x - cx) / (rng.uniform(0.7, 1.3) * (1 + waves))
        height = np.maximum(height, -radius)
    return height > np.quantile(height, 1 - fraction)


def hint_of(mask: np.ndarray, stride: int = 4) -> np.ndarray:
    """float32 [1, 1, stride·H, stride·W], the program's second input, for a mask at the stem's resolution."""
    return np.where(mask, np.float32(1), np.float32(-1)).repeat(stride, 0).repeat(stride, 1)[None, None]
