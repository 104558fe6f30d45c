"""Foveate compiles adaptive-compute vision models into engines that do only the work each image needs.

Names are loaded on first use, so `import foveate` costs nothing and needs nothing but numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline.compile import compile as compile
    from .runtime import FoveateError as FoveateError
    from .runtime import Model as Model
    from .runtime import Result as Result
    from .runtime import load as load

__version__ = "0.1.0"

_PUBLIC = {
    "compile": "pipeline.compile",
    "load": "runtime",
    "Model": "runtime",
    "Result": "runtime",
    "FoveateError": "runtime",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'foveate' has no attribute {name!r}; public names: {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
