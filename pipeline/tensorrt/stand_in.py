"""What takes the place of an engine that TensorRT cannot run here: the model that it was built from, in onnxruntime,
every result rounded as its precision is. That checks casts and Q/DQ, and no kernel of TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from ...runtime.engine import parts
from ...runtime.manifest import EngineFile
from ..lower_precision import KINDS
from ..rounding import in_float32
from .borders import open_session
from .engine_model import EngineModels


def open_stand_in(bundle: Path, program: onnx.ModelProto, engine: EngineFile, threads: int = 0) -> Any:
    """Its session, which wants the choices fed. `program`: the bundle's, without weights."""
    model = EngineModels(program, engine.precision).make(bundle / engine.program)
    _, floats = parts(engine.precision)
    if floats in KINDS:
        model = in_float32(model, floats)
    return open_session(model, bundle, threads)
