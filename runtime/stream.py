"""A video through a model: each frame computes what the change since the last one reaches."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .changes import Changes, Seen
from .engine import Engine
from .errors import InputError
from .fallback import Fallback, FrameCosts
from .inputs import Batch, check_finite, one_image
from .manifest import Pair, StreamPlan, TensorSpec
from .native.handles import StateHandle
from .policy import StreamPolicy
from .result import Result, detach, new_timing
from .selective import choice_feeds
from .spans import SpanEngine
from .stream_file import StreamState, read_state, write_state

if TYPE_CHECKING:
    from .request import Request

_RANGE = 3.0  # times a layer's root mean square: about what its values span
# Multiply-adds that read each number of a layer's output, from which on looking at it pays. What is held back where
# little is saved only adds errors: of 12 to 170, 40 to 70 gave the fastest streams at equal error (CenterFace).
_WORTH = 40
_MOSTLY = 0.5  # share of the positions from which all of the work is foreseen, without looking


@dataclass(frozen=True)
class StreamEngines:
    """What the streams of a model share. `program`: all of it as one engine, for inputs of these shapes; `behind`: the
    engine for what lies behind so many groups of the plan, none where nothing does; `costs`: by resolution;
    `fingerprint`: of plan and weights."""

    spans: SpanEngine
    program: Callable[[tuple[tuple[int, ...], ...]], Engine]
    behind: Callable[[int], Engine | None]
    costs: dict[tuple[Pair, ...], FrameCosts]
    fingerprint: str


@dataclass(frozen=True)
class _Course:
    """How a frame is computed: the first `level` groups by the kernels, of these the first `current` selectively.
    `why`: the stream's reason; `foreseen`: share of the work, by group."""

    level: int
    current: int
    why: str
    foreseen: Sequence[float]


class Steps(Protocol):
    """Runs the manifest's steps from `first` on, up to `last` or all that are left."""

    def __call__(self, tensors: Mapping[str, np.ndarray], first: int, last: int | None) -> Request: ...


class Stream:
    """The state of one video; made by `Model.stream`. Call it with one frame after the other; one caller at a time.

    A frame with another resolution begins anew, and so does the frame after an error.

    changed: bool [height, width] of the first input (as padded), what the last frame computed; None where that was all
        of it.
    work, full_work: multiply-adds of the last frame, and of one that is computed whole; without what lies behind the
        first barrier, which is computed for every frame, an encoder with exits as deep as its gate asks for.
    reason: why the last frame was computed whole, "first", "refresh", "scene cut", "drift", or by the dense engine,
        "slower"; "resumed" where layers are computed whole that the dense engine computed before; "size" where the
        kernels' plan does not hold for the resolution. Empty for selective frames, also where the dense engine computes
        the last layers: `strategies["stream"]` of the answer is then ("spans", "dense"), else one of the two.
    frames: since the first layers were last computed whole.
    """

    def __init__(
        self,
        engines: StreamEngines,
        plan: StreamPlan,
        outputs: tuple[TensorSpec, ...],
        read: Callable[..., Batch],
        steps: Steps,
        choices: Callable[[], Mapping[str, np.ndarray]],
        policy: StreamPolicy,
        limit: int,
    ):
        """`read`: an ImageReader. `choices`: their current values."""
        self._engines, self._plan, self._outputs, self._read = engines, plan, outputs, read
        self._steps, self._choices = steps, choices
        self.policy, self._limit = policy, limit
        self._check_layers()
        self._lock = threading.Lock()
        self.frames = 0
        self.changed: np.ndarray | None = None
        self.work = self.full_work = 0.0
        self.reason = ""
        self._ends = (*(tail.ops for tail in plan.tails), engines.spans.ops)  # of the groups, in the plan
        self._full: list[float] = []  # multiply-adds of each at all positions
        self._state: StateHandle | None = None
        self._sizes: tuple[Pair, ...] = ()  # that it was opened for
        self._changes: list[Changes] = []  # by input; none before the first frame
        self._rms = np.empty(
            0, np.float32
        )  # of each layer, at the last whole frame; empty where no layer has a threshold
        self._fallback = Fallback(FrameCosts())

    def __call__(self, frame: Any) -> Result:
        """One frame: what `Model.__call__` takes, with one image. Raises InputError before the state is touched."""
        start = perf_counter()
        spans = self._engines.spans
        batch = one_image(self._read(frame, spans.inputs))
        with self._lock:
            inputs = [batch.feeds[name] for name in spans.inputs]
            seen = self._look(inputs)
            fits = spans.fits({name: value.shape[2:4] for name, value in batch.feeds.items()})
            state = self._state_for(inputs) if fits else None
            try:
                if state is None:
                    tensors, used = self._run_unplanned(batch.feeds), ("dense",)
                else:
                    tensors, used = self._advance(batch.feeds, inputs, seen, state)
                behind = self._steps(tensors, self._plan.then, None) if self._plan.then else None
            except BaseException:
                self.reset()
                raise
        timing = new_timing()
        timing["total"] = (perf_counter() - start) * 1e3
        tensors = tensors if behind is None else behind.tensors
        outputs = batch.unpad({spec.name: tensors[spec.name] for spec in self._outputs})
        result = Result(outputs, timing=timing, strategies={"stream": used})
        if behind is None:
            return result
        return replace(result, segments=behind.segments, depth=behind.depth, features=behind.features)

    def reset(self) -> None:
        """Forgets the video: the next frame is computed whole."""
        self.frames, self.changed, self._changes = 0, None, []

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state to a file, for `load` of a stream of the same bundle. Raises InputError where there is none:
        before the first frame, and while the dense engine computes the frames or their last layers."""
        with self._lock:
            if not self._changes or self._state is None or self._fallback.level < len(self._ends):
                raise InputError(
                    "stream.save",
                    got="a stream without a state"
                    + (": of its last frame, the dense engine computed layers" if self._changes else ""),
                    expected="one after a selective frame",
                    fix="Save later, or begin anew: the first frame is computed whole.",
                )
            last = [changes.last for changes in self._changes]
            held = self._state.save()
            write_state(path, StreamState(self._engines.fingerprint, held, self._rms, last, self.frames))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes on with a state that `save` wrote: the next frame is compared with the last one before it was saved. The
        policy is this stream's own. Raises InputError for a file that is damaged or of another bundle, and leaves the
        state as it was."""
        found = read_state(path, self._engines.fingerprint)
        self._read(dict(zip(self._engines.spans.inputs, found.last, strict=False)))  # refuses what is none
        with self._lock:
            state = self._state_for(found.last)
            state.load(found.held)
            self._set_limits(state, found.rms)
            self._changes = self._follow(found.last)
            self.frames, self.changed, self._fallback.level = found.frames, None, len(self._ends)

    @property
    def nbytes(self) -> int:
        """Of the state; 0 before the first frame."""
        kept = sum(changes.last.nbytes for changes in self._changes)
        return kept + (self._state.nbytes if self._state is not None else 0)

    def _look(self, inputs: list[np.ndarray]) -> list[Seen] | None:
        """What changed: nothing to compare with for a first frame, None where nobody asks. Raises InputError for values
        that are not finite."""
        followed = list(zip(self._changes, inputs, strict=False))
        seen, finite = [], False
        if followed and all(changes.last.shape == value.shape for changes, value in followed):
            if not self._fallback.looks:
                seen, finite = None, all(changes.is_finite(value) for changes, value in followed)
            else:
                seen = [changes.look(value) for changes, value in followed]
                finite = all(s.finite for s in seen)
        if not finite:
            for name, value in zip(self._engines.spans.inputs, inputs, strict=True):
                check_finite(name, value)
        return seen

    def _advance(
        self,
        feeds: Mapping[str, np.ndarray],
        inputs: list[np.ndarray],
        seen: list[Seen] | None,
        state: StateHandle,
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        times = [perf_counter()]
        course = self._choose(state, seen)
        level, current, self.reason = course.level, course.current, course.why
        if level and not current:
            state.follow([None] * len(inputs))
        work = []
        for group, (first, last) in enumerate(pairwise((0, *self._ends[:level]))):
            state.advance(inputs, first, last, whole=group >= current)
            work.append(state.work)
            times.append(perf_counter())
        tensors = self._run_behind(level, feeds, state) if level else self._run_dense(feeds)
        times.append(perf_counter())
        self.work = sum(work) + sum(self._full[level:])
        if current < level:
            self._set_limits(state, np.empty(0, np.float32))
        ms = [(end - start) * 1e3 for start, end in pairwise(times)]
        self._fallback.took(level, ms, current, course.foreseen, self._shares(work))
        self._remember(inputs, seen if current else None)
        self.frames = self.frames + 1 if current else 1
        self.changed = seen[0].dirty if seen and current else None
        return tensors, ("spans",) * (level > 0) + ("dense",) * (level < len(self._ends))

    def _state_for(self, inputs: list[np.ndarray]) -> StateHandle:
        sizes: tuple[Pair, ...] = tuple((value.shape[2], value.shape[3]) for value in inputs)
        if self._state is None or sizes != self._sizes:
            spans = self._engines.spans
            by_name = dict(zip(spans.inputs, sizes, strict=True))
            self._check_bytes(spans.state_bytes(by_name), sizes)
            self.reset()
            self._state = None  # before there is another: not both at once
            self._state = spans.open_state(by_name, self._limit, stream=True)
            self._sizes = sizes
            self._full = self._by_group(self._state.follow([None] * len(inputs)))
            self.full_work = sum(self._full)
            shares = [work / max(self.full_work, 1.0) for work in self._full]
            costs = self._engines.costs.setdefault(sizes, FrameCosts(shares))
            self._fallback = Fallback(costs, bool(self.policy.layer_threshold), not self.policy.exact)
        return self._state

    def _by_group(self, work: np.ndarray) -> list[float]:
        return [float(work[first:last].sum()) for first, last in pairwise((0, *self._ends))]

    def _shares(self, work: list[float]) -> list[float]:
        return [part / max(full, 1.0) for part, full in zip(work, self._full, strict=False)]

    def _check_bytes(self, need: int, sizes: tuple[Pair, ...]) -> None:
        if need > self._limit:
            shown = ", ".join(f"{height}×{width}" for height, width in sizes)
            raise InputError(
                "frame",
                got=f"{shown}, whose stream keeps {need / 2**20:.0f} MiB",
                expected=f"at most {self._limit / 2**20:.0f} MiB",
                fix="Load with a larger max_state_bytes, or pass smaller frames.",
            )

    def _choose(self, state: StateHandle, seen: list[Seen] | None) -> _Course:
        """A course with selective groups is prepared."""
        top, everything = len(self._ends), [1.0] * len(self._ends)
        if seen is None:
            return _Course(0, 0, "slower", everything)
        if not seen:
            return _Course(top, 0, "first", everything)
        policy, moved, level = self.policy, max(s.moved for s in seen), self._fallback.level
        if level:
            refresh = policy.refresh and self.frames >= policy.refresh
            drifted = max(s.drift for s in seen) > policy.drift
            reason = (
                "refresh" if refresh else "scene cut" if moved > policy.cut else "drift" if drifted else ""
            )
            if reason:
                return _Course(level, 0, reason, everything)
        foreseen = everything
        if level or moved < _MOSTLY:
            work = state.follow([s.dirty for s in seen])
            # What layers hold back is only known afterwards: foreseen is then a number that the work grows with.
            share = max(np.count_nonzero(s.dirty) / s.dirty.size for s in seen)
            foreseen = [share] * top if self._rms.size else self._shares(self._by_group(work))
        chosen = self._fallback.choose(foreseen) if policy.fallback else top
        reason = "slower" if not chosen else "resumed" if chosen > level else ""
        return _Course(chosen, min(level, chosen), reason, foreseen)

    def _set_limits(self, state: StateHandle, rms: np.ndarray) -> None:
        """Layer thresholds in units of each layer. `rms`: of each; where it is empty, of what the state holds."""
        shares = self.policy.layer_threshold
        if not shares:
            return
        names = self._engines.spans.names
        if isinstance(shares, Mapping):
            each = np.array([shares.get(name, 0.0) for name in names], np.float32)
        else:
            each = np.where(state.uses() >= _WORTH, np.float32(shares), np.float32(0))
        self._rms = rms if rms.size else state.rms()
        state.limit(_RANGE * self._rms * each)

    def _check_layers(self) -> None:
        shares = self.policy.layer_threshold
        unknown = set(shares) - set(self._engines.spans.names) if isinstance(shares, Mapping) else ()
        if unknown:
            raise InputError(
                "stream option layer_threshold",
                got=", ".join(sorted(unknown)),
                expected=f"tensors of the stream's plan: {', '.join(self._engines.spans.names)}",
                fix="A layer that was fused goes by the name of what it was fused into.",
            )

    def _follow(self, inputs: list[np.ndarray]) -> list[Changes]:
        return [Changes(self.policy, value, self._engines.spans.pool) for value in inputs]

    def _remember(self, inputs: list[np.ndarray], seen: list[Seen] | None) -> None:
        """What was propagated: where it was seen to change, everything for None."""
        if not self._changes:
            self._changes = self._follow(inputs)
        elif seen is not None or self._fallback.looks:  # or else nothing will be compared with it
            for i, value in enumerate(inputs):
                self._changes[i].accept(value, seen[i] if seen is not None else None)

    def _run_dense(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._plan.then:
            return self._steps(feeds, 0, self._plan.then).tensors
        engine = self._engines.program(tuple(value.shape for value in feeds.values()))
        given = {**choice_feeds(engine, self._choices()), **feeds}
        return dict(zip(engine.outputs, engine.run(given), strict=True))

    def _run_unplanned(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.reset()
        self._state, self.work, self.full_work, self.reason = None, 0.0, 0.0, "size"
        return self._run_dense(feeds)

    def _run_behind(
        self, level: int, feeds: Mapping[str, np.ndarray], state: StateHandle
    ) -> dict[str, np.ndarray]:
        """What lies behind the first `level` groups, together with what these made."""
        spans, engine = self._engines.spans, self._engines.behind(level)
        tensors = {**feeds, **dict(zip(spans.outputs, state.outputs, strict=True))}
        if engine is not None:
            given = {
                name: tensors[name] if name in tensors else state.tensor(spans.names.index(name))
                for name in engine.inputs
            }
            given.update(choice_feeds(engine, self._choices()))
            tensors.update(zip(engine.outputs, engine.run(given), strict=True))
        lent = {id(array) for array in (*state.outputs, *feeds.values())}
        detach(tensors, (spec.name for spec in self._outputs if spec.name in tensors), lent)
        return tensors
