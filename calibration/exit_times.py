"""What an image costs that leaves at each exit: the bundle's own latency on this device, one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..pipeline.interleave import Contender
from ..runtime import Result
from ..runtime.manifest import ExitChain
from .exit_answers import forced
from .gate import Gate
from .latency import Latency


@dataclass(frozen=True)
class GateTime:
    """A gate, run: `measured_ms` an image, and `expected_ms`, the mean over the same images of what their exits take in
    the same run. But for noise they are equal, where depth alone decides what an image costs."""

    images: int
    expected_ms: float
    measured_ms: float


class ExitTimes(Latency):
    """A bundle in the layout that `load` takes, with a few images. A context manager."""

    def __init__(self, bundle: Path, exits: ExitChain, images: Sequence[np.ndarray], threads: int | None):
        super().__init__(bundle, images, threads)
        self._exits = exits

    def of_exits(self, tick: Callable[[], None]) -> list[float]:
        """ms of each exit."""
        return list(self.ms(self._forced(), tick).values())

    def of_gate(self, gate: Gate, tick: Callable[[], None]) -> GateTime:
        """Of the gate run, and of its exits, in turns."""
        name = self._exits.gate
        chosen = self.run({**gate.choices(name), f"{name}.offset": [0.0] * len(gate.exits)})
        depths: list[int] = []
        for image in self.images:
            result = chosen(image)
            assert isinstance(result, Result) and result.depth is not None
            depths.append(int(result.depth[0]))
        found = self.ms({**self._forced(), "gate": chosen}, tick)
        expected = float(np.mean([found[str(depth)] for depth in depths]))
        return GateTime(len(depths), expected, found["gate"])

    def _forced(self) -> dict[str, Contender]:
        exits = forced(self._exits, {})
        return {str(exit): self.run(c) for exit, c in zip(self._exits.exits, exits, strict=True)}
