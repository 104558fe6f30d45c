"""transformers' Swin backbone with free heights and widths.

Its layers pad what they see to whole windows, and take smaller windows where the map is not larger than one; both are
decided in Python, so that a trace holds one case. Here every layer pads (maybe by nothing) and takes whole windows,
which is the same from `least_size` on."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn


def free_sizes(backbone: nn.Module) -> None:
    """Changes the backbone's Swin layers for maps of any size that is larger than a window. Others stay as they are."""
    swin: list[Any] = [layer for layer in backbone.modules() if type(layer).__name__ == "SwinLayer"]
    for layer in swin:
        layer.maybe_pad = MethodType(_pad, layer)
        layer.set_shift_and_window_size = MethodType(_keep, layer)


def least_size(config: Any) -> int:
    """The smallest height and width of an image whose maps are all larger than a window; 1 for other backbones."""
    if getattr(config, "model_type", "") != "swin":
        return 1
    coarsest = config.patch_size * 2 ** (len(config.depths) - 1)
    return coarsest * (config.window_size + 1)


def _pad(layer: Any, maps: Tensor, height: int, width: int) -> tuple[Tensor, tuple[int, ...]]:
    """[B, H, W, C] padded to whole windows; and paddings of which the layer asks only whether there are any."""
    window = layer.window_size
    # Not -(-n // window): ONNX divides towards zero.
    below, right = ((n + window - 1) // window * window - n for n in (height, width))
    return nn.functional.pad(maps, (0, 0, 0, right, 0, below)), (0, 0, 0, 1, 0, 1)


def _keep(_layer: Any, _size: tuple[int, int]) -> None:
    """Windows and shifts stay as they are configured."""
