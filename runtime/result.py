"""What a request answers: the program's outputs, its decisions, and where the time went."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PHASES = ("dense", "plan", "gather", "compute", "scatter", "restore", "fallback", "total")

Timing = dict[str, float]


def new_timing() -> Timing:
    """Milliseconds of a request by phase: `dense` segments (with the decisions), `plan` (dirty positions, rectangles
    and the choice of strategy), `gather`, `compute` and `scatter` of windows, `restore` of scratch, `fallback` of
    regions that ran densely, and `total`, which also holds checking the input and handing out the answer. An image
    that was submitted has the times of the batches that it was in, and `wait`, those between them."""
    return dict.fromkeys(PHASES, 0.0)


def detach(tensors: dict[str, Any], names: Iterable[str], lent: Collection[int]) -> None:
    """Copies those of the named tensors whose id is among the `lent`: what is handed out belongs to the caller."""
    for name in names:
        if id(tensors[name]) in lent:
            tensors[name] = tensors[name].copy()


@dataclass(frozen=True)
class DecisionResult:
    """What one node decided. keep [N, 1, H, W], 0 where inactive; logits and energy [N, 1, ⌈H/p⌉, ⌈W/p⌉], None
    where the bundle does not compute them; active_fraction float64 [N], the share of positions with keep ≠ 0."""

    name: str
    keep: Any
    logits: Any
    energy: Any
    active_fraction: np.ndarray


@dataclass(frozen=True)
class Result(Mapping[str, Any]):
    """A mapping from output name to array (numpy, or torch where a torch tensor went in), owned by the caller.

    `strategies`: region name → "spans", "rects", "windows" (on a GPU) or "dense" for each image. `timing`:
    milliseconds by phase; `segments`: those of phase `dense` by segment, empty where the whole program ran in one
    engine. `depth`: int64 [N], the layers that each image took, and `features` [N, D] what the gate read; None for
    programs without exits, and where all layers ran.
    """

    outputs: dict[str, Any]
    decisions: dict[str, DecisionResult] = field(default_factory=dict)
    timing: Timing = field(default_factory=dict)
    strategies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    segments: dict[str, float] = field(default_factory=dict)
    depth: np.ndarray | None = None
    features: np.ndarray | None = None

    def __getitem__(self, name: str) -> Any:
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(f"no output {name!r}; outputs: {', '.join(self.outputs)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in self.outputs.items())
        return f"Result({shapes}; {self.timing.get('total', 0.0):.2f} ms)"
