"""The free choices of a bundle, and the precision of its program, searched together: the cheapest of their settings
that a budget allows.

Half of the images choose. Knob after knob (`knobs`), in the order in which images meet them, each is tried at a few
points of the front so far; what an answer is worth comes from running it, what it costs from timing it here. The other
half confirms: there the bundle runs with what was chosen. What was run and timed is kept in the bundle, so that another
budget repeats nothing, and the same one chooses the same again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..export.program import load_program
from ..pipeline.as_written import is_quantized
from ..pipeline.bundle_folder import check_place
from ..pipeline.data import Dataset, open_data
from ..pipeline.metrics import metric_for
from ..pipeline.progress import Progress
from ..runtime.errors import InputError, ProgramError
from ..runtime.manifest import ExitChain, Manifest, Preprocess
from .answers import Choices as Values
from .budget import Budget, pareto
from .choices import Choices
from .exit_answers import forced
from .exits import chain_of
from .halves import Half, halves
from .knobs import Knob, Point, PrecisionKnob, counts_of, knobs_of, with_ms
from .latency import IMAGES, Latency
from .source import Source, of_bundle, open_source, store
from .thresholds import measure
from .tradeoff import Tradeoff, confirm, trials_of
from .variants import FLOATS, LowPrecision, Variant, open_variant, write_variant

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
    precision: str | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Tradeoff, Choices, Path]:
    """Chooses within the budget and stores it. Gives what was tried, the choices and their path, choices.json (`out`;
    default: in the bundle), beside which the curve lies. `metric`: a row of docs/data.md; by default what the labels
    allow; "agreement" with the reference (the program as it was built, all layers) for a budget of drift. `seed` deals
    images to the half that chooses and the one that confirms.

    `precision` ("int8", "fp8"): the program may run in it, all of it or some segments. Where that wins, the choices
    are those of another bundle, `out` (default: BUNDLE-int8), and this one stays what it is.

    Raises InputError for a bundle without free choices, too few images and a budget that nothing fits, ProgramError
    for a precision of a program that is quantized already, and what the metric raises."""
    source, progress = open_source(Path(bundle)), progress or Progress(quiet=True)
    manifest = of_bundle(source.manifest, bundle)
    settings = preprocess(manifest.preprocess)
    opened = data if isinstance(data, Dataset) else open_data(data, settings, limit, manifest.labels)
    images = halves(opened, limit, seed, LEAST)
    beside = out or source.path.with_name(f"{source.path.name}-{precision}")
    if precision is not None:
        check_place(beside, source.path)
        _check_floats(source)
    metric = budget.metric(metric, ["agreement"]) or metric_for(next(iter(opened))[1])
    with ExitStack() as stack:
        first = [sample.image for sample in islice(images.choosing(), IMAGES)]
        latency = stack.enter_context(Latency(source.path, first, threads))
        chain = chain_of(manifest)
        reference = _reference(source, manifest, chain)
        opening = stack, metric, reference, threads
        floats = open_variant(FLOATS, source, *opening)
        knobs = knobs_of(source.masks, chain, threads or 0)
        if precision is not None:
            prepared = dataclasses.replace(source, preprocess=settings)
            low = LowPrecision(prepared, precision, images, reference, threads or 0)
            knobs.insert(
                0, PrecisionKnob(low, lambda words, of: open_variant(words, of, *opening, floats.answers))
            )
        search = _Search(floats, knobs, images.choosing, latency, budget, progress)
        points = search.points(reference)
        found = search.start
        chosen = budget.pick(points, found.quality)
        with progress.stage("confirm", len(images.confirming)) as stage:
            before, after = (
                counts_of(on, [choices], images.confirming, stage.tick)[0]
                for on, choices in ((floats, reference), (chosen.variant, chosen.choices))
            )
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
        held_out=confirm(budget, before, after),
        program=chosen.variant.source.sha256,
        precision=_paid(precision, budget, search.tried, chosen, found.quality) if precision else "",
    )
    choices = _record(opened, chosen, tradeoff, threads)
    if precision is None:
        path = store(source, choices, out)
    elif chosen.variant.words == FLOATS:
        path = store(source, choices)
    else:
        tradeoff.write(source.path)  # too: it was searched here
        path = write_variant(chosen.variant, beside, choices)
    tradeoff.write(path.parent)
    return tradeoff, choices, path


def _check_floats(source: Source) -> None:
    if is_quantized(load_program(source.program)):
        raise ProgramError(
            f"bundle {source.path}",
            got="a program that is quantized",
            expected="one in floats for --precision",
            fix="Give the bundle that this one was made of.",
        )


def _reference(source: Source, manifest: Manifest, chain: ExitChain | None) -> Values:
    """The program as it was built, with all of its layers. (Not with its masks open: a network that learnt behind a
    mask does not know what lies beyond it.)"""
    values = {choice.name: source.built.get(choice.name, choice.value) for choice in manifest.choices}
    return values if chain is None or not chain.gate else forced(chain, values)[-1]


class _Search:
    """`tried` holds all points, also those whose other knobs were left alone; `start` is the reference."""

    def __init__(
        self,
        floats: Variant,
        knobs: Sequence[Knob],
        samples: Half,
        latency: Latency,
        budget: Budget,
        progress: Progress,
    ):
        if not knobs:
            raise InputError(
                f"bundle {floats.source.path}",
                got="no energy mask and no gate",
                expected="something to choose",
                fix="--precision int8 is a choice that all programs have.",
            )
        self._floats, self._knobs, self._samples, self._latency = floats, knobs, samples, latency
        self._budget, self._progress = budget, progress
        self.start: Point
        self.tried: list[Point] = []

    def points(self, reference: Values) -> list[Point]:
        """With every knob set."""
        with self._progress.stage("reference", len(self._samples)) as stage:
            (counts,) = counts_of(self._floats, [reference], self._samples, stage.tick)
            built = {mask.decision.name: "as built" for mask in self._floats.source.masks}
            if any(isinstance(knob, PrecisionKnob) for knob in self._knobs):
                built = {PrecisionKnob.name: FLOATS, **built}
            self.start = Point(built, reference, counts, self._floats, [reference])
        if np.isnan(self.start.quality):
            raise InputError(
                "data",
                got=f"images on which {self._floats.answers.metric} is not defined",
                expected="images with something to find",
                fix="Give others, or another --metric.",
            )
        points = [self.start]
        for knob in self._knobs:
            at = self._carried(points)
            with self._progress.stage(knob.name, len(at) * len(self._samples)) as stage:
                found = [p for each in at for p in knob.points(each, self._samples, stage.tick)]
                points = self._timed([*points, *found], stage.tick)
                self.start = points[0]
                stage.note = f"{len(found)} settings"
        self.tried = points
        return [point for point in points if len(point.settings) == len(self._knobs)]

    def _timed(self, points: Sequence[Point], tick: Callable[[], None]) -> list[Point]:
        runs = [(point.variant.source, run) for point in points for run in point.runs]
        ms = iter(self._latency.of(runs, tick))
        return [with_ms(point, [next(ms) for _ in point.runs]) for point in points]

    def _carried(self, points: Sequence[Point]) -> list[Point]:
        """The first, and of the front within the budget a few, from the cheapest to the best."""
        least = self._budget.least(self.start.quality)
        front = [p for p in pareto(points) if least is None or p.quality >= least]
        few = np.unique(np.linspace(0, len(front) - 1, WIDTH).round().astype(int)) if front else []
        carried = [front[int(place)] for place in few]
        return carried if any(p is self.start for p in carried) else [self.start, *carried]


def _paid(kind: str, budget: Budget, tried: Sequence[Point], chosen: Point, reference: float) -> str:
    """Whether low precision won, and what the best point of either kind within the budget is."""

    def best(low: bool) -> str:
        among = [p for p in tried if (p.variant.words != FLOATS) is low]
        with contextlib.suppress(InputError):
            point = budget.pick(among, reference)
            return f"{point.quality:.4f} at {point.ms:.2f} ms"
        fast = [p for p in among if budget.latency_ms is None or p.ms <= budget.latency_ms]
        nearest = max(fast, key=lambda p: p.quality) if fast else min(among, key=lambda p: p.ms)
        return f"nothing ({nearest.quality:.4f} at {nearest.ms:.2f} ms comes nearest)"

    verb = "pays" if chosen.variant.words != FLOATS else "does not pay"
    return f"{kind} {verb}: within the budget {best(True)}, in floats {best(False)}"


def _record(data: Dataset, chosen: Point, tradeoff: Tradeoff, threads: int | None) -> Choices:
    """The chosen values, with how active they leave the images and how deep they go."""
    source = chosen.variant.source
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
        stream=dict(source.manifest.stream_policy) or None,
        depths=dict(chosen.depths) or None,
    )
