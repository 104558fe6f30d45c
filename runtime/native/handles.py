"""Python objects over the library's: plans, states and pools, closed with their last reference."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import numpy as np

from ..errors import EngineError, InternalError
from ..manifest import Pair
from .library import ISAS, library, why_missing

_ERROR_BYTES = 512


class _Handle:
    """Something that the library opened. A forked child leaves it alone: its threads stayed with the parent."""

    def __init__(self, pointer: int | None, close: str):
        self.pointer, self._close, self._process = pointer, close, os.getpid()

    def __del__(self) -> None:
        native = library()
        if native is not None and getattr(self, "pointer", None) and os.getpid() == self._process:
            getattr(native, self._close)(self.pointer)


class PoolHandle(_Handle):
    """`threads` with the caller among them; 0 takes one per core that this process may use."""

    def __init__(self, threads: int):
        affinity = getattr(os, "sched_getaffinity", None)
        usable = len(affinity(0)) if affinity else os.cpu_count() or 1
        super().__init__(_library().fv_pool_open(threads or usable), "fv_pool_close")


class PlanHandle(_Handle):
    """A plan of `plan.encode` with its packed weights. Immutable: any number of states may share it."""

    def __init__(
        self, words: np.ndarray, params: np.ndarray, *, inputs: int, outputs: int, isa: str = "best"
    ):
        self.inputs, self.outputs, self.tensors = inputs, outputs, int(words[1]) if len(words) > 1 else 0
        error = _Error()
        pointer = _library().fv_plan_open(
            words.ctypes.data, words.size, params.ctypes.data, params.size, ISAS.index(isa), *error.arguments
        )
        error.check(pointer)
        super().__init__(pointer, "fv_plan_close")
        self.ops: int = _library().fv_plan_ops(pointer)

    def state_bytes(self, sizes: Sequence[Pair]) -> int:
        """Of a state for inputs of these heights and widths. Raises EngineError where the plan does not fit them."""
        error = _Error()
        found = _library().fv_plan_bytes(
            self.pointer, _sizes(sizes, self.inputs).ctypes.data, *error.arguments
        )
        error.check(found >= 0)
        return found


class StateHandle(_Handle):
    """The buffers of a plan at one resolution. For one caller at a time.

    outputs: float32 [1, channels, height, width] each, the state's own: they hold the reference where nothing was
    computed. With `stream`, the reference is what the frame before left: `follow` and `advance` take the place of
    `prepare` and `run`, and the first frame is computed whole.
    Raises EngineError where the plan cannot run at these sizes, or needs more than `limit` bytes.
    """

    def __init__(
        self,
        plan: PlanHandle,
        sizes: Sequence[Pair],
        pool: PoolHandle,
        limit: int = 1 << 40,
        *,
        stream: bool = False,
    ):
        self._plan, self._pool = plan, pool
        native, error = _library(), _Error()
        given = _sizes(sizes, plan.inputs)
        pointer = native.fv_state_open(plan.pointer, given.ctypes.data, limit, *error.arguments)
        error.check(pointer)
        super().__init__(pointer, "fv_state_close")
        shape = np.empty(3, np.int64)
        self.outputs: list[np.ndarray] = []
        for index in range(plan.outputs):
            native.fv_state_output(pointer, index, shape.ctypes.data)
            self.outputs.append(np.empty((1, int(shape[2]), int(shape[0]), int(shape[1])), np.float32))
        self._targets = _pointers(self.outputs)
        if not stream:
            self._call("fv_state_refer", self._pool.pointer, self._targets)

    @property
    def nbytes(self) -> int:
        return _library().fv_state_bytes(self.pointer) + sum(a.nbytes for a in self.outputs)

    def prepare(self, dirty: Sequence[np.ndarray | None]) -> float:
        """What must be computed where the inputs differ from the reference (bool [height, width] each; None:
        everywhere), as multiply-adds."""
        work = ctypes.c_double()
        kept = [None if d is None else np.ascontiguousarray(d) for d in dirty]
        self._call("fv_state_prepare", _pointers(kept), ctypes.byref(work))
        return work.value

    def run(self, inputs: Sequence[np.ndarray]) -> None:
        """Computes it from inputs, float32 [1, channels, height, width] each, into `outputs`."""
        kept = [np.ascontiguousarray(value, np.float32) for value in inputs]
        self._call("fv_state_run", self._pool.pointer, _pointers(kept), self._targets)

    def follow(self, dirty: Sequence[np.ndarray | None]) -> np.ndarray:
        """Of a stream: the same where the inputs differ from the frame before, by op: float64 [ops], all 0 where limits
        leave it open."""
        work = np.empty(self._plan.ops)
        kept = [None if d is None else np.ascontiguousarray(d) for d in dirty]
        self._call("fv_state_follow", _pointers(kept), work.ctypes.data)
        return work

    def advance(self, inputs: Sequence[np.ndarray], first: int, last: int, *, whole: bool) -> None:
        """Computes that for the ops from `first`, where the call before ended, up to `last`; with `whole` at all
        positions. What lies behind a frame's last op is stale: it is to be computed whole when it is next."""
        kept = [np.ascontiguousarray(value, np.float32) for value in inputs]
        pool, targets = self._pool.pointer, self._targets
        self._call("fv_state_advance", pool, first, last, int(whole), _pointers(kept), targets)

    def tensor(self, index: int) -> np.ndarray:
        """A tensor of the plan, as a new array: float32 [1, channels, height, width]."""
        shape = np.empty(3, np.int64)
        self._call("fv_state_tensor", self._pool.pointer, index, shape.ctypes.data, None)
        found = np.empty((1, int(shape[2]), int(shape[0]), int(shape[1])), np.float32)
        self._call("fv_state_tensor", self._pool.pointer, index, shape.ctypes.data, found.ctypes.data)
        return found

    @property
    def work(self) -> float:
        """Multiply-adds of the last run or advance."""
        return _library().fv_state_work(self.pointer)

    def limit(self, limits: np.ndarray) -> None:
        """Of a stream: positions of a tensor that moved by at most its limit in every channel are not passed on.
        [tensors of the plan]; 0 passes everything on."""
        given = np.ascontiguousarray(limits, np.float32).reshape(self._plan.tensors)
        self._call("fv_state_limit", given.ctypes.data)

    def uses(self) -> np.ndarray:
        """Multiply-adds that read each number of a tensor, on average: float32 [tensors of the plan]."""
        found = np.empty(self._plan.tensors, np.float32)
        _library().fv_state_uses(self.pointer, found.ctypes.data)
        return found

    def rms(self) -> np.ndarray:
        """Root mean square of each tensor of the plan: float32."""
        found = np.empty(self._plan.tensors, np.float32)
        self._call("fv_state_rms", self._pool.pointer, found.ctypes.data)
        return found

    @property
    def held_bytes(self) -> int:
        """Of what `save` gives."""
        return _library().fv_state_memory(self.pointer)

    def save(self) -> np.ndarray:
        """All that the state of a stream holds, as bytes (uint8)."""
        found = np.empty(self.held_bytes, np.uint8)
        _library().fv_state_save(self.pointer, found.ctypes.data)
        return found

    def load(self, held: np.ndarray) -> None:
        """What `save` gave, of a state of the same plan and sizes."""
        if held.dtype != np.uint8 or held.size != self.held_bytes:
            raise InternalError(f"a state of {held.size} bytes was given to one of other sizes")
        kept = np.ascontiguousarray(held)
        self._call("fv_state_load", self._pool.pointer, kept.ctypes.data, self._targets)

    def restore(self) -> None:
        """Back to the reference."""
        self._call("fv_state_restore", self._pool.pointer, self._targets)

    def _call(self, name: str, *arguments: object) -> None:
        error = _Error()
        failed = getattr(_library(), name)(self.pointer, *arguments, *error.arguments)
        error.check(not failed)


class _Error:
    """Room for what the library says."""

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(_ERROR_BYTES)
        self.arguments = (self._text, _ERROR_BYTES)

    def check(self, succeeded: object) -> None:
        if not succeeded:
            raise EngineError(
                "the native kernels",
                got=self._text.value.decode(errors="replace") or "a failure without a word",
                expected="a plan and inputs that they run",
                fix="Build the bundle again with `foveate build`, or load it with strategy='rects'.",
            )


def _sizes(sizes: Sequence[Pair], inputs: int) -> np.ndarray:
    return np.array(sizes, np.int64).reshape(inputs, 2)


def _pointers(arrays: Sequence[np.ndarray | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(None if a is None else a.ctypes.data for a in arrays))


def _library() -> ctypes.CDLL:
    native = library()
    if native is None:
        raise InternalError(f"native kernels were asked for, which are missing: {why_missing()}")
    return native
