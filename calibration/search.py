"""The free choices of a bundle, searched together: the cheapest of their settings that a budget allows.

Half of the images choose. Knob after knob (`knobs`), in the order in which images meet them, each is tried at a few
points of the front so far; what an answer is worth comes from running it, what it costs from timing it here. The other
half confirms: there the bundle runs with what was chosen. What was run and timed is kept in the bundle, so that another
budget repeats nothing, and the same one chooses the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.data import Dataset, Sample, open_data
from ..pipeline.metrics import metric_for, padded
from ..pipeline.progress import Progress, ticking
from ..runtime import load
from ..runtime.errors import InputError
from ..runtime.manifest import CHAIN, ExitChain, Manifest, Preprocess
from ..runtime.native.library import library
from ..runtime.spans import native_regions
from .answers import KEPT, Answers, key_of
from .answers import Choices as Values
from .budget import Budget, pareto
from .choices import Choices
from .exit_answers import forced
from .exits import chain_of
from .knobs import Point, Samples, knobs_of, with_ms
from .latency import IMAGES, Latency
from .source import Source, of_bundle, open_source, store
from .thresholds import measure
from .tradeoff import Tradeoff, confirm, trials_of

WIDTH = 4  # points at which the next knob is tried, at most
LEAST = 8  # images
ACTIVITY_IMAGES = 128  # at most, whose active fractions are recorded


def calibrate_budget(
    bundle: str | Path,
    data: str | Path | Dataset,
    *,
    budget: Budget,
    metric: str | None = None,
    seed: int = 0,
    preprocess: Callable[[Preprocess], Preprocess] = lambda default: default,
    limit: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Tradeoff, Choices, Path]:
    """Chooses within the budget and stores it. Gives what was tried, the choices and their path, choices.json (`out`;
    default: in the bundle), beside which the curve lies. `metric`: a row of docs/data.md; by default what the labels
    allow; "agreement" with the reference (the program as it was built, all layers) for a budget of drift. `seed` deals
    images to the half that chooses and the one that confirms.

    Raises InputError for a bundle without free choices, too few images and a budget that nothing fits, and what the
    metric raises."""
    source, progress = open_source(Path(bundle)), progress or Progress(quiet=True)
    manifest = of_bundle(source.manifest, bundle)
    settings = preprocess(manifest.preprocess)
    opened = data if isinstance(data, Dataset) else open_data(data, settings, limit, manifest.labels)
    halves = _halves(opened, limit, seed)
    if budget.max_drift is not None:
        metric = "agreement"
    metric = metric or metric_for(next(iter(opened))[1])
    with (
        load(bundle, threads=threads, strategy=_exact(manifest), layout=CHAIN) as model,
        Latency(Path(bundle), [s.image for s in islice(halves[0](), IMAGES)], threads) as latency,
    ):
        chain = chain_of(model.manifest)
        reference = _reference(source, manifest, chain)
        with Answers(model, metric, reference, Path(bundle) / KEPT, source.sha256) as answers:
            search = _Search(source, chain, halves[0], answers, latency, budget, threads or 0, progress)
            points = search.points(reference)
            found = search.start
            chosen = budget.pick(points, found.quality)
            with progress.stage("confirm", len(halves[1])) as stage:
                held_out = _counts(halves[1], answers, [reference, chosen.choices], stage.tick)
    trials = trials_of(points, found.counts, latency.dense_ms)
    tradeoff = Tradeoff(
        opened.spec,
        metric,
        seed,
        budget,
        images=len(found.counts),
        reference=found.quality,
        reference_ms=found.ms,
        dense_ms=latency.dense_ms,
        layout=latency.layout,
        trials=trials,
        chosen=trials[[p is chosen for p in points].index(True)],
        choices=dict(chosen.choices),
        held_out=confirm(budget, *held_out),
    )
    choices = _record(source, opened, chosen, tradeoff, threads)
    path = store(source, choices, out)
    tradeoff.write(path.parent)
    return tradeoff, choices, path


@dataclass(frozen=True)
class _Half:
    """Every second of the images, about: those of these places."""

    data: Dataset
    limit: int | None
    places: frozenset[int]

    def __call__(self) -> Iterator[Sample]:
        every = enumerate(self.data.samples(self.limit))
        return (sample for place, sample in every if place in self.places)

    def __len__(self) -> int:
        return len(self.places)


def _halves(data: Dataset, limit: int | None, seed: int) -> tuple[_Half, _Half]:
    count = data.count if data.count is not None else sum(1 for _ in data.samples(limit))
    count = min(count, limit or count)
    if count < LEAST:
        raise InputError(
            f"data {data.spec}", got=f"{count} images", expected=f"at least {LEAST}", fix="Give more."
        )
    dealt = np.random.default_rng(seed).permutation(count).tolist()
    middle = (count + 1) // 2
    first, second = (_Half(data, limit, frozenset(half)) for half in (dealt[:middle], dealt[middle:]))
    return first, second


def _exact(manifest: Manifest) -> str:
    """A strategy that computes the same each time, whatever the machine is doing."""
    return "spans" if native_regions(manifest) and library() is not None else "rects"


def _reference(source: Source, manifest: Manifest, chain: ExitChain | None) -> Values:
    """The program as it was built, with all of its layers. (Not with its masks open: a network that learnt behind a
    mask does not know what lies beyond it.)"""
    values = {choice.name: source.built.get(choice.name, choice.value) for choice in manifest.choices}
    return values if chain is None or not chain.gate else forced(chain, values)[-1]


class _Search:
    def __init__(
        self,
        source: Source,
        chain: ExitChain | None,
        samples: _Half,
        answers: Answers,
        latency: Latency,
        budget: Budget,
        threads: int,
        progress: Progress,
    ):
        self._knobs = knobs_of(source, chain, threads)
        if not self._knobs:
            raise InputError(
                f"bundle {source.path}",
                got="no energy mask and no gate",
                expected="something to choose",
                fix="`foveate inspect` lists a bundle's decisions.",
            )
        self._samples, self._answers, self._latency = samples, answers, latency
        self._budget, self._progress = budget, progress
        self._masks = [mask.decision.name for mask in source.masks]
        self.start: Point

    def points(self, reference: Values) -> list[Point]:
        """All that was tried with every knob; `start` is the reference."""
        with self._progress.stage("reference", len(self._samples)) as stage:
            (counts,) = _counts(self._samples, self._answers, [reference], stage.tick)
            built = dict.fromkeys(self._masks, "as built")
            self.start = Point(built, reference, counts, [reference])
        if np.isnan(self.start.quality):
            raise InputError(
                "data",
                got=f"images on which {self._answers.metric} is not defined",
                expected="images with something to find",
                fix="Give others, or another --metric.",
            )
        points = [self.start]
        for knob in self._knobs:
            at = self._carried(points)
            with self._progress.stage(knob.name, len(at) * len(self._samples)) as stage:
                found = [
                    p for each in at for p in knob.points(each, self._samples, self._answers, stage.tick)
                ]
                points = self._timed([*points, *found], stage.tick)
                self.start = points[0]
                stage.note = f"{len(found)} settings"
        return [point for point in points if len(point.settings) == len(self._knobs)]

    def _timed(self, points: Sequence[Point], tick: Callable[[], None]) -> list[Point]:
        ms = self._latency.of([run for point in points for run in point.runs], tick)
        return [with_ms(point, [ms[key_of(run)] for run in point.runs]) for point in points]

    def _carried(self, points: Sequence[Point]) -> list[Point]:
        """The first, and of the front within the budget a few, from the cheapest to the best."""
        least = self._budget.least(self.start.quality)
        front = [p for p in pareto(points) if least is None or p.quality >= least]
        few = np.unique(np.linspace(0, len(front) - 1, WIDTH).round().astype(int)) if front else []
        carried = [front[int(place)] for place in few]
        return carried if any(p is self.start for p in carried) else [self.start, *carried]


def _counts(
    samples: Samples, answers: Answers, tried: Sequence[Values], tick: Callable[[], None]
) -> np.ndarray:
    """[tried, N, K, 2] of the images under each of these choices."""
    rows = [answers.of(s.image, s.label, tried) for s in ticking(samples(), tick)]
    counts = padded([answer.counts for row in rows for answer in row])
    return counts.reshape(len(rows), len(tried), *counts.shape[1:]).swapaxes(0, 1)


def _record(source: Source, data: Dataset, chosen: Point, tradeoff: Tradeoff, threads: int | None) -> Choices:
    """The chosen values, with how active they leave the images and how deep they go."""
    assert source.manifest is not None
    values: dict[str, Any] = {m.threshold: float(chosen.choices[m.threshold]) for m in source.masks}
    gate = {name for name in chosen.choices if name not in source.built}
    values |= {name: chosen.choices[name] for name in gate}
    thresholds = {m.decision.name: values[m.threshold] for m in source.masks}
    found = measure(source, data, thresholds, limit=ACTIVITY_IMAGES, threads=threads) if thresholds else None
    return Choices(
        source.sha256,
        data.spec,
        tradeoff.images,
        values,
        found.activity if found else {},
        found.active_fraction if found else source.manifest.active_fraction,
        [*data.notes, *tradeoff.notes],
        depths=dict(chosen.depths) or None,
    )
