"""Plan: each region's nodes are grouped into local segments, each with its geometry, its terms and a strategy.

Groups are cut where few tensors that masks bound are alive, and chosen by dynamic programming over an analytic cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .analyze import Analysis, NodeInfo
from .analyze.field import HERE
from .costs import CostModel, group_ms, macs_per_cell
from .geometry import Geometry, measure, output_terms
from .partition import PartitionStep, partition
from .terms import EVERYWHERE, Terms

_MAX_BLOCKS = 12  # blocks between two cuts that one segment may hold
_MAX_ALIVE = 2  # tensors that may cross a cut


@dataclass(frozen=True)
class PlannedSegment:
    """A local segment before it has a file; `terms` are those of its outputs."""

    nodes: tuple[NodeInfo, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    geometry: Geometry
    terms: dict[str, Terms]
    macs_per_cell: float
    cost_ms: float
    strategy: str = "rects"
    reason: str = ""


@dataclass(frozen=True)
class PlannedStep:
    """A step of the partition; `segments` of a region, in order."""

    step: PartitionStep
    segments: tuple[PlannedSegment, ...] = ()


@dataclass(frozen=True)
class Plan:
    analysis: Analysis
    steps: tuple[PlannedStep, ...]
    model: CostModel
    notes: tuple[str, ...] = ()


def plan(
    analysis: Analysis, *, model: CostModel | None = None, keep_dense: Mapping[str, str] | None = None
) -> Plan:
    """Partitions and plans a program. Nodes of a region that cannot be grouped become dense, and it is partitioned
    anew. `keep_dense` maps names of further nodes that must stay dense to the reason."""
    model = model or CostModel()
    kept_dense = dict(keep_dense or {})
    while True:
        steps = partition(analysis, keep_dense=kept_dense)
        planned = []
        for step in steps:
            segments = group(step, analysis, model) if step.local else ()
            if segments is None:
                kept_dense |= {n.name: "no cut of its region runs on windows" for n in step.nodes}
                break
            planned.append(PlannedStep(step, segments))
        else:
            return Plan(analysis, tuple(planned), model, _notes(analysis, planned))


def group(step: PartitionStep, analysis: Analysis, model: CostModel) -> tuple[PlannedSegment, ...] | None:
    """The cheapest way to cut a region into segments, or None if there is none."""
    cuts = find_cuts(step, analysis)
    best: list[tuple[float, tuple[_Group, ...]] | None] = [(0.0, ())]
    for end in range(1, len(cuts)):
        found = None
        for start in range(max(0, end - _MAX_BLOCKS), end):
            before = best[start]
            last = _group(step, cuts[start], cuts[end], analysis, model) if before else None
            if before is None or last is None:
                continue
            total = before[0] + last.cost_ms
            if found is None or total < found[0]:
                found = total, (*before[1], last)
        best.append(found)
    return None if best[-1] is None else tuple(_segment(g, analysis) for g in best[-1][1])


@dataclass(frozen=True)
class _Group:
    """Nodes that could become a segment."""

    nodes: tuple[NodeInfo, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    geometry: Geometry
    cost_ms: float


def find_cuts(step: PartitionStep, analysis: Analysis) -> list[int]:
    """Indices into the region's nodes before which it may be cut, with 0 and the end.

    A cut lies before a node that reads a neighbourhood or does multiply-adds, so that elementwise nodes stay with what
    they follow, and every tensor that crosses it is bounded by masks."""
    last_read: dict[str, int] = {}
    for i, node in enumerate(step.nodes):
        last_read.update(dict.fromkeys(node.fields, i))
    alive: set[str] = set()
    cuts = [0]
    for i, node in enumerate(step.nodes):
        crossing = {t for t in alive if last_read.get(t, -1) >= i}
        heavy = node.macs > 0 or any(fields != HERE for fields in node.fields.values())
        bounded = all(step.dirty[t] is not EVERYWHERE for t in crossing)
        if i and bounded and len(crossing) <= _MAX_ALIVE and (heavy or not crossing):
            cuts.append(i)
        alive = crossing | set(node.outputs)
    return [*cuts, len(step.nodes)]


def _group(step: PartitionStep, start: int, end: int, analysis: Analysis, model: CostModel) -> _Group | None:
    nodes = step.nodes[start:end]
    made = {o for n in nodes for o in n.outputs}
    inputs = tuple(dict.fromkeys(name for n in nodes for name in n.fields if name not in made))
    read_later = {name for n in step.nodes[end:] for name in n.fields}
    outputs = tuple(o for n in nodes for o in n.outputs if o in read_later or o in step.outputs)
    geometry = measure(nodes, outputs)
    if geometry is None:
        return None
    cost = group_ms(nodes, geometry, outputs, step.dirty, analysis, model)
    return _Group(nodes, inputs, outputs, geometry, cost)


def _segment(group: _Group, analysis: Analysis) -> PlannedSegment:
    known = output_terms(group.nodes, analysis, group.inputs)
    found = {name: known[name] for name in group.outputs}
    terms = {name: bound for name, bound in found.items() if bound is not None}
    macs = macs_per_cell(group.nodes, group.geometry, analysis)
    parts = group.nodes, group.inputs, group.outputs, group.geometry
    return PlannedSegment(*parts, terms, macs, group.cost_ms)


def _notes(analysis: Analysis, steps: Sequence[PlannedStep]) -> tuple[str, ...]:
    notes = list(analysis.notes)
    exits = any(n.op == "ExitSelect" for n in analysis.nodes)
    if analysis.decisions and not any(s.step.local for s in steps):
        notes.append("no local segment lies behind a mask: every step is dense")
    elif not analysis.decisions and not exits:
        notes.append("the program has no decisions: it is one dense segment")
    return tuple(notes)
