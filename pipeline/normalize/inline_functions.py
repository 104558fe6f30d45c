"""Functions of other domains are inlined: analysis reads stock ops. Those of ai.foveate stay whole."""

from __future__ import annotations

import onnx
import onnx.inliner

from ..graph import DOMAIN


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    foreign = [(f.domain, f.name) for f in model.functions if f.domain != DOMAIN]
    return onnx.inliner.inline_selected_functions(model, foreign) if foreign else model
