"""What the layouts of a program with exits take on this device."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .layouts import layouts_for, shallow_and_deep, time_layouts
from .manifest import Manifest

if TYPE_CHECKING:
    from .model import Model

_LOG = logging.getLogger("foveate")
_LAYOUTS = 4  # times the budget of regions: their runs are few, but of all layers


def measure_layouts(
    manifest: Manifest,
    backend: str,
    open_layout: Callable[[str], Model],
    shapes: Mapping[str, Sequence[int]],
    budget_ms: float,
) -> dict[str, float]:
    """The ms of one image in each layout, the mean of the first exit and the last; none where time was short. `shapes`
    of the inputs, by name."""
    random = np.random.default_rng(0)
    feeds = {
        spec.name: random.random((1, *shapes[spec.name][1:])).astype(spec.dtype) for spec in manifest.inputs
    }
    forced = shallow_and_deep(manifest)
    with contextlib.ExitStack() as stack:
        runs: dict[str, list[Callable[[], object]]] = {}
        for name in layouts_for(manifest, backend):
            model = stack.enter_context(open_layout(name))
            runs[name] = [partial(_run_with, model, choices, feeds) for choices in forced]
        found = time_layouts(runs, perf_counter() + _LAYOUTS * budget_ms / 1e3)
    if not found:
        _LOG.warning(
            "layouts were not measured in time: call model.measure with more than %.0f ms", budget_ms
        )
    return found


def _run_with(model: Model, choices: Mapping[str, Any], feeds: Mapping[str, np.ndarray]) -> None:
    model.set_choices(choices)
    model(feeds)
