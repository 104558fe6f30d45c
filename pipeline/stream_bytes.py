"""The memory that each stream of a program takes, known before there is one."""

from __future__ import annotations

import numpy as np

from ..runtime.errors import EngineError
from ..runtime.manifest import Manifest
from ..runtime.native.handles import PlanHandle
from ..runtime.native.library import library
from ..runtime.native.plan import Array, SpanPlan, encode


def stream_bytes(manifest: Manifest, plan: SpanPlan) -> int | None:
    """Of the state at the manifest's sample, as `max_state_bytes` counts it. None where the native kernels are missing,
    or the plan does not hold for that size."""
    if library() is None:
        return None
    words, params = encode(plan, _zeros)  # the weights' values do not matter
    opened = PlanHandle(words, params, inputs=len(plan.inputs), outputs=len(plan.outputs))
    shapes = [manifest.sample[plan.names[i]] for i in plan.inputs]
    try:
        return opened.state_bytes([(shape[2], shape[3]) for shape in shapes])
    except EngineError:
        return None


def _zeros(array: Array) -> np.ndarray:
    return np.zeros(array.shape, np.int8 if array.dtype == "int8" else np.float32)
