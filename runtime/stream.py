"""A video through a model: each frame computes what the change since the last one reaches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from .engine import Engine
from .errors import InputError
from .inputs import Batch
from .manifest import Pair, StreamPlan, TensorSpec
from .native.handles import StateHandle
from .result import Result, detach, new_timing
from .spans import SpanEngine


class Stream:
    """The state of one video; made by `Model.stream`. Call it with one frame after the other; one caller at a time.

    A frame with another resolution begins anew, and so does the frame after an error. What is measured is the change
    against the value that was last propagated at a position, so slow drift cannot escape.
    """

    def __init__(
        self,
        engines: tuple[SpanEngine, Engine | None],
        plan: StreamPlan,
        outputs: tuple[TensorSpec, ...],
        read: Callable[[Any], Batch],
        *,
        threshold: float,
        refresh: int,
        limit: int,
    ):
        self._engine, self._rest = engines
        self._plan, self._outputs, self._read = plan, outputs, read
        self._threshold, self._refresh, self._limit = threshold, refresh, limit
        self._lock = threading.Lock()
        self.frames = 0  # since the state was last computed whole
        self.changed: np.ndarray | None = None  # bool [height, width] of the first input; None: all of it
        self.work = 0.0  # multiply-adds of the last frame, without what lies behind the first barrier
        self._state: StateHandle | None = None
        self._sizes: dict[str, Pair] = {}  # that it was opened for
        self._last: dict[str, np.ndarray] = {}

    def __call__(self, frame: Any) -> Result:
        """One frame: what `Model.__call__` takes, with one image. Raises InputError before the state is touched."""
        start = perf_counter()
        batch = self._read(frame)
        if batch.images != 1:
            raise InputError(
                "frame",
                got=f"{batch.images} images",
                expected="one",
                fix="Call the stream with one frame at a time.",
            )
        with self._lock:
            try:
                tensors = self._advance(batch.feeds)
            except BaseException:
                self.reset()
                raise
        timing = new_timing()
        timing["total"] = (perf_counter() - start) * 1e3
        strategy = "dense" if self.changed is None else "spans"
        outputs = {spec.name: tensors[spec.name] for spec in self._outputs}
        return Result(outputs, timing=timing, strategies={"stream": (strategy,)})

    def reset(self) -> None:
        """Forgets the video: the next frame is computed whole."""
        self.frames, self.changed, self._last = 0, None, {}

    @property
    def nbytes(self) -> int:
        """Of the state; 0 before the first frame."""
        kept = sum(value.nbytes for value in self._last.values())
        return kept + (self._state.nbytes if self._state is not None else 0)

    def _advance(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = [feeds[name] for name in self._engine.inputs]
        sizes: dict[str, Pair] = {n: (feeds[n].shape[2], feeds[n].shape[3]) for n in self._engine.inputs}
        state = self._state
        if state is None or sizes != self._sizes:
            state = self._state = self._engine.open_state(sizes, self._limit, stream=True)
            self._sizes, self.frames = sizes, 0
        if self.frames == 0:
            self._last = {name: feeds[name].copy() for name in self._engine.inputs}
        whole = self.frames == 0 or (self._refresh > 0 and self.frames >= self._refresh)
        dirty = None if whole else [self._change(name, feeds[name]) for name in self._engine.inputs]
        self.work = state.prepare(dirty or [None] * len(inputs))
        state.run(inputs)
        self._remember(feeds, dirty)
        self.frames = 1 if whole else self.frames + 1
        self.changed = None if dirty is None else dirty[0]
        return self._answer(feeds, state)

    def _change(self, name: str, value: np.ndarray) -> np.ndarray:
        """Positions where any channel moved by more than the threshold: bool [height, width]."""
        last = self._last[name]
        moved = value != last if self._threshold == 0 else np.abs(value - last) > self._threshold
        return moved[0].any(axis=0)

    def _remember(self, feeds: Mapping[str, np.ndarray], dirty: list[np.ndarray] | None) -> None:
        for i, name in enumerate(self._engine.inputs):
            if dirty is None:
                self._last[name][...] = feeds[name]
            else:
                np.copyto(self._last[name], feeds[name], where=dirty[i])

    def _answer(self, feeds: Mapping[str, np.ndarray], state: StateHandle) -> dict[str, np.ndarray]:
        tensors = {**feeds, **dict(zip(self._engine.outputs, state.outputs, strict=True))}
        if self._rest is not None:
            given = {name: tensors[name] for name in self._plan.rest_inputs}
            tensors.update(zip(self._rest.outputs, self._rest.run(given), strict=True))
        lent = {id(array) for array in (*state.outputs, *feeds.values())}
        detach(tensors, (spec.name for spec in self._outputs), lent)
        return tensors
