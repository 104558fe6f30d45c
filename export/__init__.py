"""Checkpoint -> program: the ai.foveate ops, the energy mask, and exporters from torch.

Names are loaded on first use; importing this package imports neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .extras import needs

if TYPE_CHECKING:
    from .checkpoint import load_checkpoint as load_checkpoint
    from .checkpoint import read_config as read_config
    from .checkpoint import save_checkpoint as save_checkpoint
    from .early_exit_model import EarlyExitModel as EarlyExitModel
    from .energy_mask_layer import EnergyMaskLayer as EnergyMaskLayer
    from .huggingface import with_exits as with_exits
    from .insert import insert_energy_mask as insert_energy_mask
    from .mask_losses import energy_regularizer as energy_regularizer
    from .mask_losses import location_loss as location_loss
    from .models import resnet34_body as resnet34_body
    from .models import small_resnet as small_resnet
    from .program import export_program as export_program
    from .program import load_program as load_program
    from .soft_weights import fold as fold
    from .soft_weights import soft_tensors as soft_tensors
    from .soft_weights import soften as soften
    from .torchvision_import import import_timm as import_timm
    from .torchvision_import import import_transformers as import_transformers

_PUBLIC = {
    "EarlyExitModel": "early_exit_model",
    "EnergyMaskLayer": "energy_mask_layer",
    "energy_regularizer": "mask_losses",
    "export_program": "program",
    "fold": "soft_weights",
    "import_timm": "torchvision_import",
    "import_transformers": "torchvision_import",
    "insert_energy_mask": "insert",
    "load_checkpoint": "checkpoint",
    "load_program": "program",
    "location_loss": "mask_losses",
    "read_config": "checkpoint",
    "resnet34_body": "models",
    "save_checkpoint": "checkpoint",
    "small_resnet": "models",
    "soft_tensors": "soft_weights",
    "soften": "soft_weights",
    "with_exits": "huggingface",
}
__all__ = [
    "EarlyExitModel",
    "EnergyMaskLayer",
    "energy_regularizer",
    "export_program",
    "fold",
    "import_timm",
    "import_transformers",
    "insert_energy_mask",
    "load_checkpoint",
    "load_program",
    "location_loss",
    "read_config",
    "resnet34_body",
    "save_checkpoint",
    "small_resnet",
    "soft_tensors",
    "soften",
    "with_exits",
]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'foveate.export' has no attribute {name!r}; public: {', '.join(__all__)}"
        )
    with needs("export", f"foveate.export.{name}"):
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
