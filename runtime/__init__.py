"""bundle -> answers: engines, the selective executor over a reference state, decisions and measured break-even.

Importing this needs numpy alone; running a bundle needs the onnxruntime of the extra `cpu` or `gpu`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batching import Batching as Batching
    from .breakeven import measure as measure
    from .costs import DeviceCosts as DeviceCosts
    from .engine import CudaConfig as CudaConfig
    from .engine import NullConfig as NullConfig
    from .engine import OrtConfig as OrtConfig
    from .engine import TensorRTConfig as TensorRTConfig
    from .engine import TorchConfig as TorchConfig
    from .errors import FoveateError as FoveateError
    from .loading import load as load
    from .model import Model as Model
    from .policy import StreamPolicy as StreamPolicy
    from .region_policy import RegionPolicy as RegionPolicy
    from .region_stream import RegionStream as RegionStream
    from .result import DecisionResult as DecisionResult
    from .result import Result as Result
    from .stream import Stream as Stream

_PUBLIC = {
    "load": "loading",
    "Model": "model",
    "Result": "result",
    "DecisionResult": "result",
    "Stream": "stream",
    "StreamPolicy": "policy",
    "RegionStream": "region_stream",
    "RegionPolicy": "region_policy",
    "Batching": "batching",
    "OrtConfig": "engine",
    "CudaConfig": "engine",
    "TensorRTConfig": "engine",
    "TorchConfig": "engine",
    "NullConfig": "engine",
    "FoveateError": "errors",
    "DeviceCosts": "costs",
    "measure": "breakeven",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public: {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
