"""timm imports torchvision, and torchvision from a package index does not load beside CPU-only torch."""

from __future__ import annotations

import importlib
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
    """The module timm. Where torchvision's compiled ops are missing, names without a kernel stand in for
    them: calling one still fails, but importing works.

    Raises MissingExtraError if timm is not installed."""
    for _ in range(100):  # each failed import names one more op
        try:
            with needs("export", "timm models"):
                return importlib.import_module("timm")
        except RuntimeError as error:
            missing = _MISSING_OP.search(str(error))
            if not missing:
                raise
            _declare(missing.group(1))
    raise RuntimeError("torchvision keeps asking for operators that do not exist; reinstall torchvision")


def _declare(op: str) -> None:
    import torch

    torch.library.define(op, _SCHEMAS.get(op, "(Tensor x) -> Tensor"))
    for name in [m for m in sys.modules if m.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]  # half imported
