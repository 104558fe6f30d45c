"""Policies of streams, run: what their answers are worth and what a frame takes, in turns with the dense engine over
the same frames. Each runs once over a part of a clip and is kept in the bundle."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.dataset import Sample
from ..pipeline.dense import Dense, tune
from ..pipeline.files import write_text
from ..pipeline.interleave import Contender, Times, interleave
from ..pipeline.metrics import Outputs, count_of, metric_source, padded
from ..pipeline.stages import code_digest
from ..runtime import Model
from ..runtime.errors import InputError
from ..runtime.options import MAX_STATE_BYTES
from ..runtime.policy import StreamPolicy
from ..runtime.stream import Stream
from .answers import digest, key_of, plain

KEPT = "stream_trials.json"
TOGETHER = 6  # streams that take turns, at most: each holds its state
ROUNDS = 2  # the least time of each frame counts, which another process disturbs least

Policy = Mapping[str, Any]  # fields of StreamPolicy that are not the default


@dataclass(frozen=True)
class Part:
    """Frames in a row of a clip. A stream computes the first whole: it is neither timed nor counted. Raises InputError
    for frames of several sizes, and fewer than 2."""

    clip: str
    frames: Sequence[Sample]

    def __post_init__(self) -> None:
        shapes = {frame.image.shape for frame in self.frames}
        if len(shapes) != 1 or len(self.frames) < 2:
            raise InputError(
                f"video {self.clip}",
                got=f"{len(self.frames)} frames of {len(shapes)} sizes",
                expected="at least 2 to choose on and 2 to confirm, of one size",
                fix="Give a longer clip, or another --limit or --size.",
            )

    @cached_property
    def key(self) -> str:
        return digest(*((frame.image, frame.label) for frame in self.frames)).hex()

    @property
    def labels(self) -> list[Any]:
        """Of the frames that count."""
        return [frame.label for frame in self.frames[1:]]

    @property
    def counted(self) -> int:
        return len(self.frames) - 1

    @property
    def steps(self) -> int:
        """Ticks of a policy."""
        return ROUNDS * self.counted


@dataclass(frozen=True)
class Ran:
    """A policy over a part. counts: float64 [B, K, 2], what each of B blocks of frames in a row adds to the metric;
    hold: the same of the dense answer to the frame before; ms: of a frame, mean; work: share of a whole frame's
    multiply-adds, mean."""

    counts: np.ndarray
    hold: np.ndarray
    ms: float
    work: float


class StreamTrials:
    """Of the bundle that `model` has open, with its choices."""

    def __init__(self, model: Model, metric: str, program: str, threads: int, labelled: bool = False):
        """`program`: a hash of it. `labelled`: frames without a label do not count."""
        self._model, self._metric, self._threads, self._labelled = model, metric, threads, labelled
        self._source = metric_source(metric)
        self._choices = {choice.name: choice.value for choice in model.manifest.choices}
        self._tuned: Dense | None = None
        self._path = model.path / KEPT
        device = model.fingerprint
        made = {"program": program, "foveate": code_digest()}
        self._of = {**made, "choices": key_of(self._choices), "device": device}
        self._dense_ms, self._ran = _read(self._path, self._of)

    @property
    def dense_ms(self) -> float:
        """Of a frame, in the first run."""
        return self._dense_ms

    def of(self, part: Part, policies: Sequence[Policy], tick: Callable[[], None]) -> list[Ran]:
        """ms: the ratio to the dense engine in the same run, times `dense_ms`. `tick` is called for each frame of each
        policy and round. Raises what the metric raises."""
        keys = [self._key(part, policy) for policy in policies]
        missing = {key: policy for key, policy in zip(keys, policies, strict=True) if key not in self._ran}
        together = self._together(part) if missing else 1
        for first in range(0, len(missing), together):
            some = list(missing)[first : first + together]
            streams = {key: self._stream(missing[key]) for key in some}
            run = _Run(streams, self._dense(part), part, self._metric, self._labelled)
            times = run.measure(tick)
            dense_ms = _ms(times, _Run.DENSE)
            self._dense_ms = self._dense_ms or dense_ms
            for key in some:
                ms, work = (
                    self._dense_ms * _ms(times, key) / dense_ms,
                    self._share(float(np.mean(run.work[key]))),
                )
                self._ran[key] = Ran(run.counts(key), run.counts(_Run.HOLD), ms, work)
            self._write()
        return [self._ran[key] for key in keys]

    def _key(self, part: Part, policy: Policy) -> str:
        text = f"{part.key} {self._source} {self._labelled} {key_of(policy)}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _stream(self, policy: Policy) -> Stream:
        """That computes as the policy says, whatever the machine is doing."""
        return self._model.stream(StreamPolicy(**policy, fallback=False))

    def _together(self, part: Part) -> int:
        """As many as hold together what one may."""
        stream = self._stream({})
        stream(part.frames[0].image)
        return int(np.clip(MAX_STATE_BYTES // max(stream.nbytes, 1), 1, TOGETHER))

    def _share(self, work: float) -> float:
        """Of the whole program, of a share of what streams save."""
        plan = self._model.manifest.stream
        saved = plan.share if plan is not None else 0.0
        return 1 - saved + saved * work

    def _dense(self, part: Part) -> Contender:
        if self._tuned is None:
            program, frame = self._model.path / self._model.manifest.program, part.frames[0].image
            self._tuned = tune(program, self._threads, frame, choices=self._choices, rounds=3)
        return partial(self._tuned, choices=self._choices)

    def _write(self) -> None:
        ran = {
            key: {**vars(found), "counts": found.counts.tolist(), "hold": found.hold.tolist()}
            for key, found in self._ran.items()
        }
        write_text(self._path, json.dumps({"of": self._of, "dense_ms": self._dense_ms, "ran": ran}) + "\n")


class _Run:
    """Streams and the dense engine, frame by frame in turns."""

    DENSE, HOLD = "dense", "hold"

    def __init__(
        self, streams: Mapping[str, Stream], dense: Contender, part: Part, metric: str, labelled: bool
    ):
        self._streams, self._dense, self._part = streams, dense, part
        self._count = count_of(metric)
        self._counted = [not labelled or label is not None for label in part.labels]
        self._answers: dict[str, Outputs] = {}
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in (self.HOLD, *streams)}
        self.work: dict[str, list[float]] = {name: [] for name in streams}

    def measure(self, tick: Callable[[], None]) -> Times:
        images = [frame.image for frame in self._part.frames[1:]]

        def compare() -> None:
            self._compare()
            for _ in self._streams:
                tick()

        contenders = {self.DENSE: self._dense, **self._streams}
        return interleave(contenders, images, ROUNDS, compare, self._prepare, observe=self._observe)

    def counts(self, name: str) -> np.ndarray:
        """[B, K, 2]"""
        return in_blocks(padded(self._rows[name]))

    def _prepare(self, number: int) -> None:
        """Before a round: everyone sees the first frame whole."""
        self._number = number
        if number:
            return
        first = self._part.frames[0].image
        self._before: Outputs = plain(self._dense(first))
        for stream in self._streams.values():
            stream.reset()
            stream(first)

    def _observe(self, name: str, answer: Any) -> None:
        self._answers[name] = plain(answer)

    def _compare(self) -> None:
        """The answers of all rounds are the same."""
        dense, number = self._answers[self.DENSE], self._number
        if len(self._rows[self.HOLD]) < len(self._counted):
            for name in self._rows:
                answer = self._before if name == self.HOLD else self._answers[name]
                label = self._part.labels[number]
                self._rows[name].append(
                    self._count(answer, label, dense) if self._counted[number] else np.zeros((1, 2))
                )
            for name, stream in self._streams.items():
                self.work[name].append(stream.work / stream.full_work)
        self._before = dense


def in_blocks(counts: np.ndarray) -> np.ndarray:
    """[B, K, 2] of counts [N, K, 2] of frames: summed over blocks of N^(1/3) in a row (Hall, Horowitz and Jing, "On
    blocking rules for the bootstrap with dependent data", 1995), for neighbours err alike."""
    length = int(np.ceil(len(counts) ** (1 / 3)))
    return np.add.reduceat(counts, np.arange(0, len(counts), length), axis=0)


def _ms(times: Times, name: str) -> float:
    return float(times.wall[name].min(axis=1).mean())


def _read(path: Path, of: Mapping[str, Any]) -> tuple[float, dict[str, Ran]]:
    """The dense engine's ms, and what ran by key; 0 and none of a file that holds for something else."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["of"] == of:
            ran = {
                key: Ran(np.array(r["counts"]), np.array(r["hold"]), r["ms"], r["work"])
                for key, r in found["ran"].items()
            }
            return found["dense_ms"], ran
    return 0.0, {}
