"""One run over a clip: dense and streams in turns, and what each answers beside the dense answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from foveate.pipeline.interleave import Times, interleave
from foveate.runtime.stream import Stream

_BINS = 20000  # of errors in [0, 1], for percentiles of all positions of all frames

Outputs = Mapping[str, np.ndarray]
Decide = Callable[[Outputs], np.ndarray]


@dataclass
class Errors:
    """|answer − dense| over positions and frames, in shares of `spans`, the range of each output."""

    spans: dict[str, float]
    decide: Decide
    total: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    bins: dict[str, np.ndarray] = field(default_factory=dict)
    worst: float = 0.0
    both: int = 0  # positions decided alike
    found: int = 0
    wanted: int = 0

    def add(self, answer: Outputs, dense: Outputs) -> None:
        for name, span in self.spans.items():
            error = np.abs(answer[name] - dense[name]).ravel() / span
            self.total[name] = self.total.get(name, 0.0) + float(error.sum(dtype=np.float64))
            self.count[name] = self.count.get(name, 0) + error.size
            places = np.minimum((error * _BINS).astype(np.int64), _BINS - 1)
            self.bins[name] = self.bins.get(name, 0) + np.bincount(places, minlength=_BINS)
            self.worst = max(self.worst, float(error.max()))
        found, wanted = self.decide(answer), self.decide(dense)
        self.both += int((found & wanted).sum())
        self.found += int(found.sum())
        self.wanted += int(wanted.sum())

    def summary(self) -> dict:
        """Means over outputs; `agreement`: positions that both decide ÷ that either decides."""
        mean = {name: self.total[name] / self.count[name] for name in self.spans}
        p99 = {
            name: float(np.searchsorted(np.cumsum(b), 0.99 * b.sum()) + 1) / _BINS
            for name, b in self.bins.items()
        }
        either = self.found + self.wanted - self.both
        return {
            "mean_error": float(np.mean(list(mean.values()))),
            "p99_error": float(np.mean(list(p99.values()))),
            "max_error": self.worst,
            "mean_error_by_output": mean,
            "p99_error_by_output": p99,
            "agreement": self.both / either if either else 1.0,
            "recall": self.both / self.wanted if self.wanted else 1.0,
            "decided": self.wanted,
        }


class Run:
    """`frames`: the program's inputs; the first is computed whole by every stream, and only what follows is timed."""

    def __init__(
        self,
        dense: Callable[[np.ndarray], Outputs],
        streams: Mapping[str, Stream],
        frames: Sequence[np.ndarray],
        decide: Decide,
    ):
        self._dense, self._streams, self._frames, self._decide = dense, streams, frames, decide
        self._answers: dict[str, Outputs] = {}
        self._used: dict[str, tuple[str, ...]] = {}
        self.errors: dict[str, Errors] = {}
        self.shares: dict[str, list[float]] = {}  # of the multiply-adds, by stream and frame
        self.changed: dict[str, list[float]] = {}  # of the positions of the input
        self.reasons: dict[str, Counter[str]] = {}
        self.strategies: dict[str, list[str]] = {}  # by stream and frame

    def measure(self) -> Times:
        contenders = {"dense": self._call("dense", self._dense)}
        contenders |= {name: self._call_stream(name, stream) for name, stream in self._streams.items()}
        return interleave(contenders, self._frames[1:], rounds=1, tick=self._compare, prepare=self._prepare)

    def propagated_error(self, name: str) -> float:
        """The largest error of a stream's last answer against the dense answer to what it propagated: to the input
        whose positions are as old as the stream left them. 0 but for the order of sums, without layer thresholds."""
        spans, answer = self.errors[name].spans, self._answers[name]
        wanted = self._dense(self._propagated[name])
        return max(float(np.abs(answer[o] - wanted[o]).max()) / span for o, span in spans.items())

    def _call(self, name: str, contender: Callable[[np.ndarray], Outputs]) -> Callable[[np.ndarray], None]:
        def call(frame: np.ndarray) -> None:
            self._answers[name] = contender(frame)

        return call

    def _call_stream(self, name: str, stream: Stream) -> Callable[[np.ndarray], None]:
        def call(frame: np.ndarray) -> None:
            result = stream(frame)
            self._answers[name], self._used[name] = result, result.strategies["stream"]

        return call

    def _prepare(self, number: int) -> None:
        """Before the first timed frame: the frame before it, whole, to everyone."""
        self._number = number
        if number:
            return
        first = self._frames[0]
        self._held = self._previous = self._dense(first)
        spans = {name: float(np.ptp(value)) for name, value in self._held.items()}
        self.errors = {name: Errors(spans, self._decide) for name in ("held", "previous", *self._streams)}
        self._propagated = {name: first.copy() for name in self._streams}
        for name, stream in self._streams.items():
            stream.reset()
            stream(first)
            self.shares[name], self.changed[name], self.reasons[name] = [], [], Counter()
            self.strategies[name] = []

    def _compare(self) -> None:
        dense = self._answers["dense"]
        self.errors["held"].add(self._held, dense)
        self.errors["previous"].add(self._previous, dense)
        self._previous = dense
        frame = self._frames[1 + self._number]
        for name, stream in self._streams.items():
            self.errors[name].add(self._answers[name], dense)
            changed = np.ones(frame.shape[2:], bool) if stream.changed is None else stream.changed
            self.shares[name].append(stream.work / stream.full_work)
            self.changed[name].append(float(changed.mean()))
            self.reasons[name][stream.reason or "changed positions"] += 1
            self.strategies[name].append(", ".join(self._used[name]))
            np.copyto(self._propagated[name], frame, where=changed)
