"""Each step of a bundle by itself, on what the reference has on its borders.

Programs in Q/DQ are judged so. From end to end a value on the edge of two bytes falls to either, and what comes of that
has no bound where the network is not continuous, as Mask2Former's masked attention; on equal inputs a right engine
differs by such values of its own layers alone: by one of 127 steps for each tensor that it quantizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..runtime import Model
from ..runtime.bundle import dense_files
from ..runtime.choices import change_choices, default_choices
from ..runtime.dims import symbols_at
from ..runtime.manifest import ExitChain, Exits, ExitStage, Step
from ..runtime.request import Request
from .compare import relative_error
from .tolerances import QUANTIZED, TOLERANCE

Arrays = Mapping[str, np.ndarray]
SHARE = 0.75  # of the images must be within what is allowed: a wrong engine is off on all, an edge of a byte on some
_BYTE = 1 / 127


@dataclass(frozen=True)
class StepCheck:
    """error: the largest relative error of any output, on three of four images. Decisions are not compared."""

    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed

    def __str__(self) -> str:
        return f"{self.error:.2g}" if self.passed else f"{self.error:.2g} (beyond {self.allowed:.2g})"


class Steps:
    """The steps of an open model, image by image: `steps(borders, choices)`, with every tensor between steps as the
    reference has it, for one image; then `checks()`. tolerance: of every step; None: one byte for each tensor that it
    quantizes, at most QUANTIZED, and TOLERANCE in floats."""

    def __init__(self, model: Model, strategy: str, tolerance: float | None = None):
        self._model, self._strategy = model, strategy
        self._errors: dict[str, list[float]] = {}
        manifest = model.manifest
        self._allowed = dict(_allowed(model.path, manifest.steps, tolerance))
        self._decided = {decision.keep for decision in manifest.decisions}
        self._decided |= {step.depth for step in manifest.steps if isinstance(step, Exits)}

    def __call__(self, borders: Arrays, choices: Mapping[str, Any]) -> None:
        manifest = self._model.manifest
        values = change_choices(default_choices(manifest), choices, manifest)
        for number, step in enumerate(manifest.steps):
            for name, made in self._run(number, step, borders, values):
                compared = made.keys() & borders.keys() - self._decided
                errors = (relative_error(made[tensor], borders[tensor]) for tensor in compared)
                self._errors.setdefault(name, []).append(max(errors, default=0.0))

    def checks(self) -> dict[str, StepCheck]:
        """By step; an encoder's stages stand apart."""
        return {
            name: StepCheck(float(np.quantile(errors, SHARE, method="lower")), self._allowed[name])
            for name, errors in self._errors.items()
        }

    def _run(
        self, number: int, step: Step, borders: Arrays, choices: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, Arrays]]:
        """What the step makes, or each of its stages."""
        executor = self._model.executor
        if isinstance(step, ExitChain):
            for stage in step.stages:
                made = executor.run_stage(step, stage, dict(borders), self._request({}, borders, choices))
                yield _stage_name(step, stage), made
            return
        request = self._request({name: borders[name] for name in step.inputs}, borders, choices)
        executor.run(request, number, number + 1)
        yield step.name, {name: request.tensors[name] for name in step.outputs if name in request.tensors}

    def _request(self, tensors: Arrays, borders: Arrays, choices: dict[str, np.ndarray]) -> Request:
        manifest = self._model.manifest
        shapes = {spec.name: borders[spec.name].shape for spec in manifest.inputs}
        size = borders[manifest.inputs[0].name].size
        return Request(dict(tensors), 1, size, self._strategy, choices, symbols=symbols_at(manifest, shapes))


def _stage_name(step: ExitChain, stage: ExitStage) -> str:
    return f"{step.name}.{stage.exit}"


def _allowed(folder: Path, steps: Sequence[Step], tolerance: float | None) -> Iterator[tuple[str, float]]:
    for step in steps:
        named = [(step.name, dense_files(step))]
        if isinstance(step, ExitChain):
            named = [(_stage_name(step, stage), [stage.file]) for stage in step.stages]
        for name, files in named:
            count = max(_quantizing(folder / file) for file in files)
            allowed = min(QUANTIZED, count * _BYTE) if count else TOLERANCE
            yield name, allowed if tolerance is None else tolerance


def _quantizing(file: Path) -> int:
    nodes = onnx.load(file, load_external_data=False).graph.node
    return sum(node.op_type == "QuantizeLinear" for node in nodes)
