"""Knobs: the free choices of a bundle, each with the settings that are worth trying.

A knob gives points: what the search images' answers are worth where it is set so, all else as at a given point. A
search needs to know no more of it; what a new kind of choice needs is a class with `name` and `points`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..pipeline.dataset import Sample
from ..pipeline.masks import Mask
from ..pipeline.metrics import padded
from ..pipeline.progress import ticking
from ..runtime.manifest import ExitChain
from .answers import Choices
from .exit_answers import collect, forced
from .exit_tradeoff import BETAS, LEAST
from .gate import Gate, one_depth, train_gates
from .judged import judge_trainings
from .source import Source
from .thresholds import active_fractions, logits_of, threshold_at
from .tradeoff import Measured
from .variants import LowPrecision, Variant

FRACTIONS = (1.0, 0.8, 0.6, 0.45, 0.35, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)  # active tokens
LOGITS_IMAGES = 64  # at most, from which thresholds are taken

Samples = Callable[[], Iterable[Sample]]  # the same images, each time it is called


@dataclass(frozen=True)
class Point(Measured):
    """variant: the program that runs; `choices` are all of its own. shares: of the images that run as with these
    choices, by their place in `runs` (exits take different times; all else runs as `choices` say)."""

    variant: Variant
    runs: Sequence[Choices]
    shares: Sequence[float] = (1.0,)
    depths: Mapping[str, int] = field(default_factory=dict)


class Knob(Protocol):
    @property
    def name(self) -> str: ...

    def points(self, at: Point, samples: Samples, tick: Callable[[], None]) -> list[Point]:
        """`at` with each of the knob's settings."""
        ...


def counts_of(
    variant: Variant, tried: Sequence[Choices], samples: Samples, tick: Callable[[], None]
) -> np.ndarray:
    """[tried, N, K, 2]: what the images add to the metric under each of these choices."""
    rows = [variant.answers.of(s.image, s.label, tried) for s in ticking(samples(), tick)]
    counts = padded([answer.counts for row in rows for answer in row])
    return counts.reshape(len(rows), len(tried), *counts.shape[1:]).swapaxes(0, 1)


@dataclass(frozen=True)
class PrecisionKnob:
    """The program in low precision: all of its segments, or all but those that suffer most from it."""

    low: LowPrecision
    opened: Callable[[str, Source], Variant]
    name = "precision"

    def points(self, at: Point, samples: Samples, tick: Callable[[], None]) -> list[Point]:
        found = []
        for words, bundle in self.low.bundles(tick):
            variant = self.opened(words, bundle)
            (counts,) = counts_of(variant, [at.choices], samples, tick)
            settings = {**at.settings, self.name: words}
            found.append(Point(settings, at.choices, counts, variant, [at.choices]))
        return found


@dataclass(frozen=True)
class MaskKnob:
    """The threshold of an energy mask: those that leave `FRACTIONS` of the tokens active, in the mean over images."""

    mask: Mask
    threads: int

    @property
    def name(self) -> str:
        return self.mask.decision.name

    def points(self, at: Point, samples: Samples, tick: Callable[[], None]) -> list[Point]:
        settings = self._settings(at, samples, tick)
        tried = [{**at.choices, self.mask.threshold: threshold} for threshold in settings]
        counts = counts_of(at.variant, tried, samples, tick)
        return [
            Point({**at.settings, self.name: words}, choices, each, at.variant, [choices])
            for choices, words, each in zip(tried, settings.values(), counts, strict=True)
        ]

    def _settings(self, at: Point, samples: Samples, tick: Callable[[], None]) -> dict[float, str]:
        """In words by threshold."""
        first = itertools.islice(samples(), LOGITS_IMAGES)
        temperature = float(at.choices[self.mask.temperature])
        source = at.variant.source
        logits, reachable = logits_of(source, self.mask, first, at.choices, self.threads, tick)
        settings = {}
        for fraction in FRACTIONS:
            threshold = threshold_at(logits, reachable, temperature, fraction)
            active = active_fractions(logits, reachable, temperature, threshold).mean()
            settings[threshold] = f"{100 * active:.3g} % active"
        return settings


@dataclass(frozen=True)
class ExitsKnob:
    """The gate of an encoder with exits: one depth for all images, or gates by the price of a layer, each image judged
    by gates that did not learn from it."""

    chain: ExitChain

    @property
    def name(self) -> str:
        return self.chain.gate

    def points(self, at: Point, samples: Samples, tick: Callable[[], None]) -> list[Point]:
        images = ticking(samples(), tick)
        data, counts, judged = collect(self.chain, at.choices, images, at.variant.answers)
        exits, features = self.chain.exits, data.features.shape[1]
        tried = [(one_depth(exits, exit, features), np.full(len(data.features), exit)) for exit in exits]
        if len(data.features) >= LEAST:
            found = judge_trainings(data, BETAS)
            gates = train_gates(data, BETAS, found.training)
            # a gate that sends all images to one exit is no other than that
            tried += [(g, d) for g, d in zip(gates, found.depths, strict=True) if len(set(d)) > 1]
        return [self._point(at, gate, depths, counts, judged) for gate, depths in tried]

    def _point(
        self, at: Point, gate: Gate, depths: np.ndarray, counts: np.ndarray, judged: np.ndarray
    ) -> Point:
        exits = self.chain.exits
        place = np.full(len(counts), len(exits) - 1)  # of images of which no answer says anything
        place[judged] = np.searchsorted(exits, depths)
        found = {str(exit): int((depths == exit).sum()) for exit in exits}
        words = f"{depths[0]:g} layers" if gate.beta is None else f"gate, β = {gate.beta:g}"
        choices = {**at.choices, **gate.choices(self.name), f"{self.name}.offset": [0.0] * len(exits)}
        return Point(
            {**at.settings, self.name: words},
            choices,
            counts[np.arange(len(counts)), place],
            at.variant,
            forced(self.chain, at.choices),
            [n / len(depths) for n in found.values()],
            {exit: n for exit, n in found.items() if n},
        )


def knobs_of(masks: Sequence[Mask], chain: ExitChain | None, threads: int) -> list[Knob]:
    """Of a bundle, in the order in which its images meet them."""
    found: list[Knob] = [MaskKnob(mask, threads) for mask in masks]
    return [*found, *([ExitsKnob(chain)] if chain is not None and chain.gate else [])]


def with_ms(point: Point, ms: Sequence[float]) -> Point:
    """Of a point whose `runs` take these times."""
    return dataclasses.replace(point, ms=float(np.dot(point.shares, ms)))
