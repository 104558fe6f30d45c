"""What an image costs that leaves at each exit: the bundle's own latency on this device, one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from ..pipeline.interleave import Contender, interleave
from ..runtime import Model, Result, load
from ..runtime.manifest import ExitChain
from .gate import Gate

IMAGES = 8  # at most
SECONDS = 2.0  # that a measurement may take, about
_ROUNDS = 3, 9  # at least and at most


@dataclass(frozen=True)
class GateTime:
    """A gate, run: `measured_ms` an image, and `expected_ms`, the mean over the same images of what their exits take in
    the same run. But for noise they are equal, where depth alone decides what an image costs."""

    images: int
    expected_ms: float
    measured_ms: float


class ExitTimes:
    """A bundle in the layout that `load` takes, with a few images. A context manager."""

    def __init__(self, bundle: Path, exits: ExitChain, images: Sequence[np.ndarray], threads: int | None):
        self._model: Model = load(bundle, threads=threads)
        self._exits, self._images = exits, list(images[:IMAGES])
        for shape in dict.fromkeys(image.shape for image in self._images):
            self._model.warmup(shape)
        self.layout = self._model.layout

    def __enter__(self) -> ExitTimes:
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()

    def of_exits(self, tick: Callable[[], None]) -> list[float]:
        """ms of each exit."""
        found = self._time(self._forced(), tick)
        return [found[str(exit)] for exit in self._exits.exits]

    def of_gate(self, gate: Gate, tick: Callable[[], None]) -> GateTime:
        """Of the gate run, and of its exits, in turns."""
        self._model.set_choices(gate.choices(self._exits.gate))
        chosen = self._contender([0.0] * len(gate.exits))
        depths = [int(np.asarray(chosen(image).depth)[0]) for image in self._images]
        found = self._time({**self._forced(), "gate": chosen}, tick)
        expected = float(np.mean([found[str(depth)] for depth in depths]))
        return GateTime(len(depths), expected, found["gate"])

    def _forced(self) -> dict[str, Contender]:
        from ..export.early_exit_model import forcing

        exits = self._exits.exits
        return {str(exit): self._contender(forcing(exits, exit)) for exit in exits}

    def _contender(self, offset: list[float]) -> Callable[[np.ndarray], Result]:
        """Sets the gate's offset before each call, which takes some 20 µs."""

        def run(image: np.ndarray) -> Result:
            self._model.set_choices({f"{self._exits.gate}.offset": offset})
            return self._model(image)

        return run

    def _time(self, contenders: Mapping[str, Contender], tick: Callable[[], None]) -> dict[str, float]:
        """ms by name: of each image the least over rounds, which another process disturbs least; the mean over images,
        as many as `SECONDS` allow."""
        deepest, first = contenders[str(self._exits.exits[-1])], self._images[0]
        deepest(first)  # opens engines, measures the device
        start = perf_counter()
        deepest(first)
        calls = SECONDS / max(perf_counter() - start, 1e-6) / len(contenders)
        images = self._images[: int(np.clip(calls / _ROUNDS[0], 1, IMAGES))]
        rounds = int(np.clip(calls / len(images), *_ROUNDS))
        times = interleave(contenders, images, rounds, tick)
        return {name: float(wall.min(axis=1).mean()) for name, wall in times.wall.items()}
