"""A batch whose images leave an encoder at different exits, and the gate that sends them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..runtime import Model
from ..runtime.errors import InputError
from ..runtime.layouts import forced_depth
from .interleave import Contender, Times, interleave
from .timers import WALL, Timer

_SURE = 100.0  # score of an image's own exit; that of the others is 0


@dataclass(frozen=True)
class Mixed:
    """ms of a batch: mixed, and with all images at one exit, by exit."""

    depths: tuple[int, ...]
    mixed_ms: float
    ms: Mapping[int, float]

    @property
    def ideal_ms(self) -> float:
        """Each image takes its share of the time of a batch in which all take its exit."""
        return float(np.mean([self.ms[depth] for depth in self.depths]))


def mixing_gate(model: Model, images: np.ndarray) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Choices that send image i of a batch to exit i mod K, and the depths: the gate's weights by least squares from
    what it reads of these images. Raises InputError where they cannot be told apart so."""
    step = model.manifest.exit_step
    assert step is not None and step.gate
    own = model.choices
    weight, bias, offset = (f"{step.gate}.{name}" for name in ("weight", "bias", "offset"))
    features = np.asarray(model(images).features, np.float64)  # [N, D]
    wanted = np.zeros((len(features), len(step.exits)))
    place = np.arange(len(features)) % len(step.exits)
    wanted[np.arange(len(features)), place] = _SURE
    fitted = np.linalg.lstsq(features, wanted, rcond=None)[0].T
    zeros = [0.0] * len(step.exits)
    choices = {name: zeros for name in (bias, offset) if name in own} | {weight: fitted.ravel().tolist()}
    depths = tuple(step.exits[i] for i in place)
    model.set_choices(choices)
    taken = tuple(np.asarray(model(images).depth).tolist())
    model.set_choices(own)
    if taken != depths:
        raise InputError(
            "a batch of mixed depths",
            got=f"images that the gate cannot tell apart ({len(features)} images, {features.shape[1]} features)",
            expected="at most as many images as features, all different",
            fix="Take fewer images, or others.",
        )
    return choices, depths


def time_mixed(
    model: Model,
    images: np.ndarray,
    placed: Any,
    others: Mapping[str, Contender],
    rounds: int,
    tick: Callable[[], None] = lambda: None,
    timer: Timer = WALL,
) -> tuple[Mixed, Times]:
    """The batch, mixed and at each exit, interleaved with `others`; times of those are in the second. `placed`: the
    images where the contenders read them."""
    step = model.manifest.exit_step
    assert step is not None
    own = model.choices
    gate, depths = mixing_gate(model, images)
    chosen = {"mixed": gate, **{str(k): {**own, **forced_depth(step, k)} for k in sorted(set(depths))}}
    runs = {name: partial(_run, model, {**own, **choices}) for name, choices in chosen.items()}
    times = interleave({**others, **runs}, [placed], rounds, tick, timer=timer)
    model.set_choices(own)
    return Mixed(depths, times.ms("mixed"), {k: times.ms(str(k)) for k in set(depths)}), times


def _run(model: Model, choices: Mapping[str, Any], images: Any) -> object:
    model.set_choices(choices)
    return model(images)
