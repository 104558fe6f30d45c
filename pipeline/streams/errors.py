"""How far a stream's outputs are from the dense program's, beside the control: holding the previous output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..statistics import percentiles

SAMPLED = 1 << 12  # positions of each frame that the percentile is taken from

Outputs = Mapping[str, Any]


@dataclass
class Differences:
    """Absolute differences of one output, frame by frame: mean and largest of all its values, and a fixed sample of
    them for the percentile. A frame whose values cannot be subtracted (other shape, none at all) has None."""

    means: list[float | None] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    _sampled: list[np.ndarray] = field(default_factory=list)

    def add(self, value: np.ndarray | None, wanted: np.ndarray) -> None:
        if value is None or value.shape != wanted.shape or not wanted.size:
            self.means.append(None)
            return
        error = np.abs(value.astype(np.float64) - wanted).ravel()
        self.means.append(float(error.mean()))
        self.largest.append(float(error.max()))
        if error.size > SAMPLED:
            error = error[np.random.default_rng(0).integers(0, error.size, SAMPLED)]
        self._sampled.append(error.astype(np.float32))

    def facts(self) -> dict[str, float | str | None]:
        """mean, p99 and max over all frames; None where there is none."""
        if not self.largest:
            return {"mean": None, "p99": None, "max": None}
        mean = float(np.mean([m for m in self.means if m is not None]))
        return {
            "mean": mean,
            "p99": percentiles(np.concatenate(self._sampled))["p99"],
            "max": max(self.largest),
        }


@dataclass
class OutputError:
    """One output. `hold`: of the dense output of the frame before, where that one was compared, too."""

    stream: Differences = field(default_factory=Differences)
    hold: Differences = field(default_factory=Differences)
    low: float = np.inf
    high: float = -np.inf

    def add(self, value: np.ndarray, dense: np.ndarray, before: np.ndarray | None) -> None:
        if dense.size:
            self.low, self.high = min(self.low, float(dense.min())), max(self.high, float(dense.max()))
        self.stream.add(value, dense)
        self.hold.add(before, dense)

    @property
    def range(self) -> float:
        """Highest − lowest value of the dense output, over the compared frames."""
        return self.high - self.low if self.high > self.low else 0.0

    def facts(self, name: str) -> dict[str, Any]:
        """As an item of `errors` in the report."""
        found, hold = self.stream.facts(), self.hold.facts()
        return {
            "output": name,
            "range": self.range,
            **found,
            "relative_mean": _ratio(found["mean"], self.range),
            "relative_max": _ratio(found["max"], self.range),
            "hold": hold,
            "of_hold": _ratio(found["mean"], hold["mean"]),
            "means": self.stream.means,
            "hold_means": self.hold.means,
        }


class Comparison:
    """All outputs of all compared frames."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.outputs: dict[str, OutputError] = {}
        self._before: Outputs = {}

    def add(self, number: int, outputs: Outputs, dense: Outputs) -> None:
        """Frame `number`. Frames come in their order, and some may be left out."""
        before = self._before if self.frames[-1:] == [number - 1] else {}
        for name, wanted in dense.items():
            error = self.outputs.setdefault(name, OutputError())
            error.add(np.asarray(outputs[name]), wanted, before.get(name))
        self.frames.append(number)
        self._before = dense

    def facts(self) -> list[dict[str, Any]]:
        return [error.facts(name) for name, error in self.outputs.items()]


def _ratio(above: Any, below: Any) -> float | None:
    return above / below if above is not None and below else None
