"""One batch on its way through the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .dims import Symbols
from .result import Timing, new_timing
from .state import Cached

Tensors = dict[str, Any]  # numpy's arrays, or a device's


@dataclass
class Request:
    """One batch on its way through the steps. `elements`: input values of one image, to scale dense costs by.
    `symbols`: the values of symbolic dims for one image."""

    tensors: Tensors
    batch: int
    elements: int
    strategy: str
    choices: Mapping[str, np.ndarray]
    symbols: Symbols = field(default_factory=dict)
    observe: bool = False  # alone on the machine, as far as we know: its times are evidence for the guard
    stays: bool = False  # on the device: what came in lies there, and so shall the answer
    timing: Timing = field(default_factory=new_timing)
    segments: dict[str, float] = field(default_factory=dict)  # ms by dense segment
    strategies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    leases: list[tuple[Cached, Any]] = field(default_factory=list)  # with the scratch borrowed from each
    checked: bool = True  # decisions that are not finite are refused
    fed: frozenset[int] = (
        frozenset()
    )  # ids of arrays that are not this request's own: the caller's, or shared
    whole: bool = False  # ran as one engine
    shapes: tuple[tuple[int, ...], ...] = ()  # of the inputs of a single image: there may be engines for them
    depth: np.ndarray | None = None  # layers that each image took, of programs with exits
    features: Any = None  # that the gate read
    active: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # fractions by decision, where they were counted

    def __post_init__(self) -> None:
        self.fed = frozenset(id(value) for value in self.tensors.values())

    def note(self, phase: str, segment: str, ms: float) -> None:
        """That so long was spent in a phase, and there in a dense segment; "" for none."""
        if phase:
            self.timing[phase] += ms
        if segment:
            self.segments[segment] = ms
