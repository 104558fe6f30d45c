"""Which gate: what gates of several prices, and one depth for all images, reach on images and cost on this device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..pipeline.report_exits import CURVE, draw_exits
from ..pipeline.report_plots import PAPER
from ..runtime.errors import InputError
from .budget import Budget
from .curve import write_curve
from .exit_data import ExitData
from .exit_times import GateTime
from .gate import Gate, one_depth, train_gates
from .judged import explained, judge_trainings
from .operating import Operating, operating, oracle

# Of a layer, in a quality between 0 and 1.
BETAS = (0.0, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)
LEAST = 8  # images


@dataclass(frozen=True)
class Cost:
    """Of images that leave at this exit, with stem and head: share of all layers' multiply-adds, and measured ms."""

    exit: int
    work: float
    ms: float


@dataclass(frozen=True)
class Trial:
    """A gate, or one exit for all, on images that it did not learn from. `work`: its share of the multiply-adds of all
    layers, and `ms`, both the mean over the images of what their exits cost."""

    point: Operating
    work: float
    ms: float

    @property
    def quality(self) -> float:
        return self.point.quality

    @property
    def cost(self) -> float:
        return self.work


@dataclass(frozen=True)
class ExitTradeoff:
    """What was tried, and `chosen` of it. `depths`: one exit for all images, the last one all layers; `trials`: the
    gates of a `training` that tell images apart; `oracle`: what no gate can know. `explained`: see `judged.explained`.
    `gate`: the chosen one, run."""

    data: str
    images: int
    metric: str
    layout: str
    training: str
    explained: float
    depths: list[Trial]
    trials: list[Trial]
    oracle: list[Trial]
    chosen: Trial
    gate: GateTime | None = None

    @property
    def full(self) -> float:
        """Quality of all layers."""
        return self.depths[-1].point.quality

    @property
    def notes(self) -> list[str]:
        """What the user should know of the choice."""
        return [] if self.chosen.point.wins else [self.verdict(), self.why()]

    def verdict(self) -> str:
        """Whether the gate is worth having, in a line."""
        point = self.chosen.point
        if point.beta is not None:
            return f"At {point.depth:.2f} layers in the mean the gate is {_against_one_depth(point)}."
        if not self.trials:
            return "No gate tells images apart that it has not seen: all take the same exit."
        best = max((trial.point for trial in self.trials), key=lambda p: p.lead[0])
        return (
            f"All images take {point.depth:g} layers, without a gate. The best gate, at {best.depth:.2f} layers in the "
            f"mean, is {_against_one_depth(best)}."
        )

    def words(self) -> str:
        """The choice, in a line."""
        point, ms, all_layers = self.chosen.point, self.chosen.ms, self.depths[-1]
        what = f"{point.depth:g} layers for all" if point.beta is None else f"gate, β = {point.beta:g}"
        return (
            f"chosen: {what}: {self.metric} {point.quality:.4f} at {point.depth:.2f} layers in the mean, {ms:.2f} ms "
            f"(all layers: {self.full:.4f}, {all_layers.ms:.2f} ms)"
        )

    def why(self) -> str:
        """Where it is not."""
        best = max(trial.point.quality for trial in self.oracle)
        most = max(trial.point.quality for trial in self.depths)
        return (
            f"What the gate reads explains {max(self.explained, 0):.1%} of how images differ in what layers bring "
            f"them; a gate that knew the qualities would reach {best:.4f}, the best single depth has {most:.4f}."
        )

    def write(self, folder: Path) -> None:
        """exit_tradeoff.json and, with matplotlib, .png."""
        write_curve(folder, CURVE, dataclasses.asdict(self), partial(draw_exits, colours=PAPER))


def choose(
    data: ExitData,
    costs: Sequence[Cost],
    spec: str,
    metric: str,
    layout: str,
    budget: Budget,
    beta: float | None = None,
) -> tuple[Gate, ExitTradeoff]:
    """The gate within the budget, or for the price `beta`, or one exit for all images where that is what pays; trained
    on all of `data`, and judged image by image by gates that did not learn from it. Raises InputError for too few
    images, and where nothing fits."""
    if len(data.features) < LEAST:
        raise InputError(
            f"data {spec}", got=f"{len(data.features)} images", expected=f"at least {LEAST}", fix="Give more."
        )
    betas = BETAS if beta is None else (beta,)
    judged = judge_trainings(data, betas)
    cost = {each.exit: each for each in costs}

    def trial(point: Operating) -> Trial:
        shares = point.shares.items()
        return Trial(
            point,
            sum(share * cost[exit].work for exit, share in shares),
            sum(share * cost[exit].ms for exit, share in shares),
        )

    images = len(data.features)
    depths = [trial(operating(None, np.full(images, exit), data)) for exit in data.exits]
    trials = [trial(operating(price, found, data)) for price, found in zip(betas, judged.depths, strict=True)]
    if beta is None:  # a gate that sends all images to one exit is no other than that
        trials = [each for each in trials if max(each.point.shares.values()) < 1]
        chosen = budget.pick([*trials, *depths], depths[-1].quality)
    else:
        chosen = trials[0]
    if chosen.point.beta is None:
        gate = one_depth(data.exits, round(chosen.point.depth), data.features.shape[1])
    else:
        gate = train_gates(data, [chosen.point.beta], judged.training)[0]
    known = [trial(oracle(data, price)) for price in betas]
    facts = (spec, images, metric, layout, judged.training, explained(data))
    return gate, ExitTradeoff(*facts, depths, trials, known, chosen)


def _against_one_depth(point: Operating) -> str:
    lead, (low, high) = point.quality - point.fixed, point.lead
    word = "ahead of" if point.wins else "behind" if high < -1e-9 else "not told apart from"
    return f"{word} one depth for all: {lead:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
