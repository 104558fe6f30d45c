"""Where the dense engine may take over from the kernels in the middle of a stream's plan: at its narrow places."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ..runtime.native.plan import SpanPlan
from .analyze import Analysis
from .wants import Wants

# Shares of the plan's work, each with at most one cut no farther off than that, and so much between them.
_PLACES, _OFF, _BETWEEN = (1 / 3, 2 / 3), 1 / 6, 0.15
_MOST_TENSORS = 4
# Handing a number from the kernels to the engine takes about the time of so many multiply-adds; a place is narrow where
# that is at most this share of the work.
_HANDED, _MOST_HANDED = 32, 0.1


@dataclass(frozen=True)
class Cut:
    """Behind the first `ops` of a plan, `nodes` make the `outputs` that are left from `inputs`. `front`:
    share of the plan's work before; `handed`: what handing over takes, as a share of it."""

    ops: int
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    front: float
    handed: float


def find_cuts(
    analysis: Analysis, wants: Wants, plan: SpanPlan, local: Collection[str], outputs: Collection[str]
) -> list[Cut]:
    """At most two, in order. `local`: the nodes that the plan runs; `outputs`: what is wanted in the end."""
    cuts = [
        cut for ops in range(1, len(plan.ops)) if (cut := _cut(analysis, wants, plan, ops, local, outputs))
    ]
    chosen: list[Cut] = []
    for place in _PLACES:
        least = chosen[-1].front + _BETWEEN if chosen else 0.0
        near = [cut for cut in cuts if abs(cut.front - place) <= _OFF and cut.front >= least]
        if near:
            chosen.append(min(near, key=lambda cut: abs(cut.front - place) + cut.handed))
    return chosen


def _cut(
    analysis: Analysis,
    wants: Wants,
    plan: SpanPlan,
    ops: int,
    local: Collection[str],
    outputs: Collection[str],
) -> Cut | None:
    """The cut there; None where it is not narrow, or where the engine would do again what the kernels have done."""
    formats = plan.formats or [None] * len(plan.names)
    made = {plan.names[op.target] for op in plan.ops[:ops] if formats[op.target] is None}
    behind, inputs = wants.of(outputs, made)
    before = {node.name for node in wants.of(made)[0]}
    if any(node.macs and node.name in before for node in behind) or len(inputs) > _MOST_TENSORS:
        return None
    total = max(1.0, sum(node.macs for node in analysis.nodes if node.name in local))
    shapes = analysis.probes.sample.shapes
    handed = _HANDED * sum(math.prod(shapes[name]) for name in inputs if name in made) / total
    if handed > _MOST_HANDED:
        return None
    front = 1 - sum(node.macs for node in behind if node.name in local) / total
    left = tuple(name for name in outputs if name not in made)
    return Cut(ops, tuple(node.name for node in behind), inputs, left, front, handed)
