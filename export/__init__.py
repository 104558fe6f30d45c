"""Checkpoint -> program: the ai.foveate ops, the energy mask, and exporters from torch.

Names are loaded on first use; importing this package imports neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .energy_mask_layer import EnergyMaskLayer as EnergyMaskLayer
    from .energy_mask_layer import energy_regularizer as energy_regularizer
    from .insert import insert_energy_mask as insert_energy_mask
    from .timm_import import import_timm as import_timm

_PUBLIC = {
    "EnergyMaskLayer": "energy_mask_layer",
    "energy_regularizer": "energy_mask_layer",
    "import_timm": "timm_import",
    "insert_energy_mask": "insert",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'foveate.export' has no attribute {name!r}; public: {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
