"""The policy of a bundle's streams by a budget: the cheapest of a small grid, on sample video.

The first half of a clip chooses; the second, or another clip, confirms. Every policy runs without the dense engine's
help, and in turns with it: what its answers are worth and what a frame takes are of the same run. Streams take the
dense engine where that is faster, so that none costs more than that.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.data import Dataset, open_data
from ..pipeline.environment import usable_cores
from ..pipeline.metrics import metric_for, value_of
from ..pipeline.progress import Progress
from ..pipeline.streams.prepare import Source as Opened
from ..pipeline.streams.prepare import fit_clip, open_model
from ..runtime import load
from ..runtime.errors import InputError
from ..runtime.manifest import Manifest, Preprocess
from .budget import Budget
from .choices import Choices
from .source import of_bundle, open_source, store
from .stream_trials import Part, Policy, StreamTrials
from .tradeoff import Measured, Tradeoff, confirm, trials_of

FRAMES = 48  # that choose, and as many that confirm
MAX_DRIFT = 0.01
LEVELS = (4, 8, 12)  # thresholds, of 255
LAYERS = (0.0, 0.02, 0.05, 0.1)  # layer thresholds
VOTE = {"block": 8, "vote": 4, "patience": 16}
EXACT: Policy = {}
COMPARING = ("closeness", "agreement")  # metrics that compare with the dense program, and need no labels
KNOB = "stream"


def calibrate_stream(
    bundle: str | Path,
    video: str,
    *,
    budget: Budget | None = None,
    metric: str | None = None,
    held_out: str | None = None,
    preprocess: Callable[[Preprocess], Preprocess] = lambda default: default,
    limit: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Tradeoff, Choices, Path]:
    """Chooses the policy within the budget (default: a drift of 1 %) and stores it. Gives what was tried, the choices
    and their path, choices.json (`out`; default: in the bundle), beside which the curve lies. The reference is the
    exact policy.

    The first half of the clip's first `limit` frames (default 96) chooses, the second confirms; where there is a clip
    `held_out`, all of the first's (default 48) choose, and as many of that one confirm. `metric`: a row of
    docs/data.md; by default what the labels allow, without labels and for a budget of drift "closeness" to the dense
    program. `preprocess` may change how the bundle prepares its frames.

    Raises InputError for a bundle without streams, too few frames, a budget that nothing fits, and one of drift in a
    metric of labels; BundleError, MissingExtraError, and what the metric raises."""
    progress, threads = progress or Progress(quiet=True), threads or usable_cores()
    budget = budget or Budget(max_drift=MAX_DRIFT)
    source, opened = open_source(Path(bundle)), open_model(Path(bundle), threads)
    manifest = of_bundle(opened.manifest, bundle)
    clips = _Clips(opened, preprocess(opened.preprocess), video, held_out, limit)
    search = clips.search()
    metric = _metric(budget, metric, search)
    with load(bundle, threads=threads) as model:
        labelled = metric not in COMPARING and _labelled(search)
        trials = StreamTrials(model, metric, source.sha256, threads, labelled)
        with progress.stage("reference", search.steps) as stage:
            (exact,) = trials.of(search, [EXACT], stage.tick)
        _require_defined(exact.counts, metric, clips.data)
        policies = [EXACT, *grid(clips.settings)]
        with progress.stage(KNOB, search.steps * len(policies[1:])) as stage:
            ran = trials.of(search, policies, stage.tick)
            stage.note = f"{len(policies)} settings"
        points = [
            Measured({KNOB: words(policy)}, policy, found.counts, ms=min(found.ms, trials.dense_ms))
            for policy, found in zip(policies, ran, strict=True)
        ]
        chosen = budget.pick(points, points[0].quality)
        images, search = search.counted, clips.confirming()
        with progress.stage("confirm", 2 * search.steps) as stage:
            full, again = trials.of(search, [EXACT, chosen.choices], stage.tick)
        _require_defined(full.counts, metric, clips.data)
        tried = trials_of(points, exact.counts, trials.dense_ms, [found.work for found in ran])
        verdict = confirm(budget, full.counts, again.counts, min(again.ms, trials.dense_ms))
        tradeoff = Tradeoff(
            clips.data.spec,
            metric,
            0,
            budget,
            images=images,
            reference=points[0].quality,
            reference_ms=points[0].ms,
            dense_ms=trials.dense_ms,
            layout="",
            trials=tried,
            chosen=tried[[point is chosen for point in points].index(True)],
            choices=dict(chosen.choices),
            held_out=dataclasses.replace(verdict, images=search.counted),
            program=source.sha256,
            unit="frames",
            hold=float(value_of(exact.hold.sum(axis=0))),
        )
    choices = _record(source.sha256, manifest, clips.data, tradeoff)
    path = store(source, choices, out)
    tradeoff.write(path.parent)
    return tradeoff, choices, path


def grid(settings: Preprocess) -> list[Policy]:
    """Policies to try beside the exact one; thresholds in units of the input that `settings` make."""
    unit = settings.scale / float(np.mean(settings.std))
    votes: tuple[dict[str, Any], ...] = ({}, VOTE)
    tried = [
        {"threshold": level * unit, **vote, "layer_threshold": layer}
        for vote in votes
        for level in LEVELS
        for layer in (LAYERS if vote else LAYERS[::2])
    ]
    return [{k: v for k, v in policy.items() if v} for policy in tried]


def words(policy: Policy) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in policy.items()) or "exact"


class _Clips:
    """The parts of one clip or two, read when they are asked for."""

    def __init__(
        self, opened: Opened, settings: Preprocess, video: str, held_out: str | None, limit: int | None
    ):
        self._held_out, self._limit = held_out, limit or (FRAMES if held_out else 2 * FRAMES)
        self.data, self.settings = fit_clip(opened, video, settings, self._limit)
        count = sum(1 for _ in self.data.samples())  # what a file announces need not be what can be decoded
        self._middle = count if held_out else (count + 1) // 2

    def search(self) -> Part:
        return _part(self.data, 0, self._middle)

    def confirming(self) -> Part:
        if self._held_out is None:
            return _part(self.data, self._middle, None)
        shape = next(self.data.samples(1)).image.shape
        size = shape[2:] if self.settings.layout == "nchw" else shape[1:3]
        settings = dataclasses.replace(self.settings, size=self.settings.size or size)
        return _part(open_data(self._held_out, settings, self._limit), 0, None)


def _part(data: Dataset, first: int, end: int | None) -> Part:
    return Part(data.spec, list(itertools.islice(data.samples(), first, end)))


def _metric(budget: Budget, metric: str | None, part: Part) -> str:
    metric = budget.metric(metric, COMPARING)
    if metric is None and _labelled(part):
        return metric_for(next(label for label in part.labels if label is not None))
    return metric or COMPARING[0]


def _labelled(part: Part) -> bool:
    return any(label is not None for label in part.labels)


def _require_defined(counts: np.ndarray, metric: str, data: Dataset) -> None:
    if np.isnan(value_of(counts.sum(axis=0))):
        raise InputError(
            f"video {data.spec}",
            got=f"frames on which {metric} is not defined in one of its halves",
            expected="frames with something to find, and labels where the metric needs them, in both",
            fix="Give more (--limit), another clip with --held-out, or another --metric.",
        )


def _record(program: str, manifest: Manifest, data: Dataset, tradeoff: Tradeoff) -> Choices:
    """The policy beside the other choices that the bundle has."""
    values = {choice.name: choice.value for choice in manifest.choices}
    return Choices(
        program,
        data.spec,
        tradeoff.images,
        values,
        {},
        manifest.active_fraction,
        [*data.notes, *tradeoff.notes],
        stream=dict(tradeoff.choices),
        depths=dict(manifest.depths) or None,
    )
