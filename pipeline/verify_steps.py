"""Each step of a bundle by itself, on what the reference has on its borders.

Programs in Q/DQ are judged so. From end to end a value on the edge of two bytes falls to either, and what comes of that
has no bound where the network is not continuous, as Mask2Former's masked attention; on equal inputs a right engine
differs by the few such values of its own layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..runtime import Model
from ..runtime.choices import change_choices, default_choices
from ..runtime.dims import symbols_at
from ..runtime.manifest import ExitChain, Exits, Step
from ..runtime.request import Request
from .compare import relative_error

Arrays = Mapping[str, np.ndarray]
SHARE = 0.9  # of the images must be within the tolerance: a discontinuity inside of a step shows on few of them


class Steps:
    """The steps of an open model, image by image: `steps(borders, choices)`, with every tensor between steps as the
    reference has it, for one image; then `errors()`."""

    def __init__(self, model: Model, strategy: str):
        self._model, self._strategy = model, strategy
        self._errors: dict[str, list[float]] = {}
        manifest = model.manifest
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

    def errors(self) -> dict[str, float]:
        """By step: the largest relative error of any output on nine of ten images. An encoder's stages stand apart;
        decisions are not compared."""
        return {
            name: float(np.quantile(errors, SHARE, method="lower")) for name, errors in self._errors.items()
        }

    def _run(
        self, number: int, step: Step, borders: Arrays, choices: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, Arrays]]:
        """What the step makes, or each of its stages."""
        executor = self._model.executor
        if isinstance(step, ExitChain):
            for stage in step.stages:
                made = executor.run_stage(step, stage, dict(borders), self._request({}, borders, choices))
                yield f"{step.name}.{stage.exit}", made
            return
        request = self._request({name: borders[name] for name in step.inputs}, borders, choices)
        executor.run(request, number, number + 1)
        yield step.name, {name: request.tensors[name] for name in step.outputs if name in request.tensors}

    def _request(self, tensors: Arrays, borders: Arrays, choices: dict[str, np.ndarray]) -> Request:
        manifest = self._model.manifest
        shapes = {spec.name: borders[spec.name].shape for spec in manifest.inputs}
        size = borders[manifest.inputs[0].name].size
        return Request(
            dict(tensors), 1, size, self._strategy, choices, symbols=symbols_at(manifest, shapes)
        )
