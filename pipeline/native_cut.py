"""A plan for the native kernels: a region is cut at ops that they do not know, where that is estimated to pay.

Such an op then runs densely, on the whole map, and what lies before and behind it are regions of their own, which the
kernels run. That is exact, for a region gives whole maps, but costs the op on all positions; and behind it, where no
mask narrows what it gives, there is no region. A region that is not cut runs on windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .analyze import Analysis, NodeInfo
from .costs import CostModel, dense_ms, group_ms
from .geometry import Geometry
from .partition import PartitionStep
from .plan import Plan, PlannedStep, plan
from .spans import Unsupported, find_foreign, lower, no_place

_MUST_WIN = 0.75  # of the time without the cut, at most: for thin networks estimates were a third too low


def plan_for_kernels(
    analysis: Analysis, *, model: CostModel | None = None, keep_dense: Mapping[str, str] | None = None
) -> Plan:
    """What `plan` gives, cut region by region where that makes it clearly cheaper."""
    kept_dense = dict(keep_dense or {})
    best = plan(analysis, model=model, keep_dense=kept_dense)
    tried: set[frozenset[str]] = set()
    while (foreign := _next_foreign(best, tried)) is not None:
        tried.add(frozenset(foreign))
        reasons = kept_dense | {name: f"{why}: cut there" for name, why in foreign.items()}
        cut = plan(analysis, model=model, keep_dense=reasons)
        if plan_ms(cut) < _MUST_WIN * plan_ms(best):
            best, kept_dense = cut, reasons
    return best


def _next_foreign(planned: Plan, tried: set[frozenset[str]]) -> dict[str, str] | None:
    """The ops that the kernels do not know of a region for which no cut was tried, with the reasons."""
    for step in planned.steps:
        if step.step.local:
            foreign = find_foreign(planned.analysis, step.step.nodes, step.step.inputs)
            if foreign and frozenset(foreign) not in tried:
                return foreign
    return None


def plan_ms(planned: Plan) -> float:
    """Estimated ms of all steps for one image at the sample's resolution."""
    return sum(_step_ms(step, planned.analysis, planned.model) for step in planned.steps)


def _step_ms(planned: PlannedStep, analysis: Analysis, model: CostModel) -> float:
    step = planned.step
    if not step.local:
        return dense_ms(step.nodes, analysis, model)
    if not _is_native(step, analysis):
        return sum(segment.cost_ms for segment in planned.segments)
    return model.call_ms + sum(_native_ms(node, step, analysis, model) for node in step.nodes)


def _native_ms(node: NodeInfo, step: PartitionStep, analysis: Analysis, model: CostModel) -> float:
    """As if on windows of its own that have no halo and cost nothing to call."""
    exact = Geometry(dict.fromkeys(node.outputs, (1, 1)), (0, 0), (0, 0), False)
    free = dataclasses.replace(model, call_ms=0.0)
    return group_ms([node], exact, node.outputs, step.dirty, analysis, free)


def _is_native(step: PartitionStep, analysis: Analysis) -> bool:
    try:
        lower(analysis, [node.name for node in step.nodes], step.inputs, step.outputs, no_place)
    except Unsupported:
        return False
    return True
