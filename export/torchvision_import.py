"""timm and transformers import torchvision, which as a package index gives it does not load beside CPU-only torch."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from types import ModuleType

from .extras import needs

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_MISSING_OP = re.compile(r"operator (torchvision::\w+) does not exist")


def import_timm() -> ModuleType:
    """The module timm. Raises MissingExtraError if it is not installed."""
    return _import("timm", "export", "timm models")


def import_transformers() -> ModuleType:
    """The module transformers. Raises MissingExtraError if it is not installed."""
    return _import("transformers", "transformers", "Hugging Face models")


def _import(name: str, extra: str, needed_for: str) -> ModuleType:
    """The module, beside a torchvision that can be imported. Where torchvision's compiled ops are missing, names
    without a kernel stand in for them: calling one still fails."""
    with needs(extra, needed_for):
        if importlib.util.find_spec("torchvision") is not None:
            _mend_torchvision()
        return importlib.import_module(name)


def _mend_torchvision() -> None:
    for _ in range(100):  # each failed import names one more op
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            missing = _MISSING_OP.search(str(error))
            if not missing:
                raise
            _declare(missing.group(1))
    raise RuntimeError("torchvision keeps asking for operators that do not exist; reinstall torchvision")


def _declare(op: str) -> None:
    import torch

    torch.library.define(op, _SCHEMAS.get(op, "(Tensor x) -> Tensor"))
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
