"""Partition: a program becomes steps, in order, each dense or a region of local nodes whose dirtiness masks bound.

Every node gets a phase: dense steps are even, regions odd, and a node's phase is the lowest of its parity that is not
below those of the tensors it reads. Nodes of one phase form one step. A local node belongs to a region if masks bound
where its output differs from the reference state, or if all its readers lie in one region that needs it only there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .analyze import BARRIER, DECISION, LOCAL, MASK, Analysis, NodeInfo
from .terms import EVERYWHERE, Terms, through

BEFORE = "before the first mask"
MIN_SHARE = 0.002  # a region with less than this share of the program's multiply-adds stays dense


@dataclass(frozen=True)
class PartitionStep:
    """Nodes in an order in which they can run, and the data tensors that they read from and hand to other steps.

    `local` steps are regions; `dirty` holds the terms of each tensor made there (None: dirty everywhere)."""

    local: bool
    nodes: tuple[NodeInfo, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str
    dirty: dict[str, Terms | None] = dataclasses.field(default_factory=dict)

    @property
    def macs(self) -> float:
        return sum(node.macs for node in self.nodes)


def partition(analysis: Analysis, *, keep_dense: Mapping[str, str] | None = None) -> list[PartitionStep]:
    """Steps whose chain computes the program. `keep_dense` maps names of nodes that must not lie in a region to the
    reason. A program without masks, or without local nodes behind them, is one dense step."""
    phases = _Phases(analysis, dict(keep_dense or {}))
    phases.settle()
    while small := [n for n in _regions(phases) if not _is_worth(n, analysis)]:
        for nodes in small:
            phases.demote({n.name: "too little work behind a mask" for n in nodes})
        phases.settle()
    return _steps(analysis, phases)


class _Phases:
    """Assigns phases; `local` holds the names of the nodes that lie in regions."""

    def __init__(self, analysis: Analysis, keep_dense: dict[str, str]):
        self.analysis = analysis
        self.sources = {
            n.name: analysis.program.sources(analysis.program.by_name[n.name]) for n in analysis.nodes
        }
        self.reasons: dict[str, str] = dict(keep_dense)
        self.local = {n.name for n in analysis.nodes if n.kind == LOCAL} - set(keep_dense)
        self.phase: dict[str, int] = {}  # by node
        self.dirty: dict[str, Terms | None] = {}  # by tensor
        self._made_by = {o: n for n in analysis.nodes for o in n.outputs}
        self._readers: dict[str, list[NodeInfo]] = {}
        self._behind = set(analysis.masks)  # tensors that depend on a mask
        for node in analysis.nodes:
            if any(name in self._behind for name in self.sources[node.name]):
                self._behind.update(node.outputs)
            for name in self.sources[node.name]:
                self._readers.setdefault(name, []).append(node)

    def demote(self, reasons: dict[str, str]) -> None:
        """Makes these nodes dense; the first reason given for a node stays."""
        self.reasons = reasons | self.reasons
        self.local -= set(reasons)

    def settle(self) -> None:
        """Until every node of a region is bounded by masks, or is needed only where they are active."""
        while True:
            self._forward()
            if not (unfit := self._backward()):
                return
            self.demote(unfit)

    def _forward(self) -> None:
        for node in self.analysis.nodes:
            before = [
                self.phase[self._made_by[s].name] for s in self.sources[node.name] if s in self._made_by
            ]
            low, local = max(before, default=0), node.name in self.local
            self.phase[node.name] = low + (low % 2 != int(local))
            if local:
                known = {name: self._dirty_for(node, name) for name in node.fields}
                terms = through(node, self.analysis.masks, known)
                self.dirty.update(dict.fromkeys(node.outputs, terms))

    def _dirty_for(self, node: NodeInfo, name: str) -> Terms | None:
        """Terms of a tensor as a region sees it: what comes from another step is dirty everywhere."""
        maker = self._made_by.get(name)
        if maker is None or maker.name not in self.local or self.phase[maker.name] != self.phase[node.name]:
            return EVERYWHERE
        return self.dirty[name]

    def _backward(self) -> dict[str, str]:
        """Local nodes that are dirty everywhere and that a dense step reads. Others move to their readers' phase."""
        outputs = set(self.analysis.local.outputs)
        unfit: dict[str, str] = {}
        for node in reversed(self.analysis.nodes):
            if node.name not in self.local or self.dirty[node.outputs[0]] is not EVERYWHERE:
                continue
            readers = [r for o in node.outputs for r in self._readers.get(o, [])]
            dense = any(r.name not in self.local or r.name in unfit for r in readers)
            phases = {self.phase[r.name] for r in readers}
            if dense or not readers or outputs & set(node.outputs) or len(phases) > 1:
                unfit[node.name] = self._why_everywhere(node)
            else:
                self.phase[node.name] = phases.pop()
        return unfit

    def _why_everywhere(self, node: NodeInfo) -> str:
        if not any(name in self._behind for name in node.fields):
            return BEFORE
        open_to = [n for n in node.fields if self._dirty_for(node, n) is EVERYWHERE and n not in self._behind]
        joins = f"{open_to[0]} joins at {node.name}" if open_to else f"{node.name} reads what is"
        return f"dirty everywhere: {joins} and no mask narrows it"


def _regions(phases: _Phases) -> list[list[NodeInfo]]:
    groups: dict[int, list[NodeInfo]] = {}
    for node in phases.analysis.nodes:
        if node.name in phases.local:
            groups.setdefault(phases.phase[node.name], []).append(node)
    return list(groups.values())


def _is_worth(nodes: list[NodeInfo], analysis: Analysis) -> bool:
    macs = sum(n.macs for n in nodes)
    return macs > 0 and macs >= MIN_SHARE * analysis.macs


def _steps(analysis: Analysis, phases: _Phases) -> list[PartitionStep]:
    groups: dict[int, list[NodeInfo]] = {}
    for node in analysis.nodes:
        groups.setdefault(phases.phase[node.name], []).append(node)
    wanted = set(analysis.local.outputs)
    wanted |= {t for d in analysis.decisions for t in (d.keep, d.logits, d.energy) if t}
    steps: list[PartitionStep] = []
    for phase in sorted(groups, reverse=True):  # from the back, so that what later steps read is known
        nodes = groups[phase]
        made = {o: None for n in nodes for o in n.outputs}
        read = {s: None for n in nodes for s in phases.sources[n.name] if s not in made}
        outputs = tuple(t for t in made if t in wanted)
        if not outputs:
            continue  # nothing reads what these nodes make
        local = phase % 2 == 1
        dirty = {t: phases.dirty[t] for t in made} if local else {}
        nodes = depth_first(nodes, outputs) if local else nodes
        reason = _region_reason(nodes) if local else _dense_reason(nodes, phases.reasons)
        steps.append(PartitionStep(local, tuple(nodes), tuple(read), outputs, reason, dirty))
        wanted |= set(read)
    return steps[::-1]


def depth_first(nodes: Sequence[NodeInfo], outputs: Sequence[str]) -> list[NodeInfo]:
    """The same nodes, branch after branch instead of interleaved, so that few tensors are alive between them."""
    made_by = {o: n for n in nodes for o in n.outputs}
    order: dict[str, NodeInfo] = {}
    for output in outputs:
        stack = [(made_by[output], False)]
        while stack:
            node, ready = stack.pop()
            if node.name in order:
                continue
            if ready:
                order[node.name] = node
                continue
            stack.append((node, True))
            stack += [(made_by[i], False) for i in reversed(node.inputs) if i in made_by]
    return list(order.values())


def _region_reason(nodes: Sequence[NodeInfo]) -> str:
    return f"{len(nodes)} local nodes behind masks"


def _dense_reason(nodes: Sequence[NodeInfo], reasons: dict[str, str]) -> str:
    """Barriers first, then what else keeps the step dense."""
    named = [f"{n.name} ({n.op}) {n.reason}" for n in nodes if n.kind == BARRIER]
    decided = [f"{n.name} decides" for n in nodes if n.kind == DECISION]
    others = list(dict.fromkeys(reasons[n.name] for n in nodes if n.name in reasons))
    found = [*first_few(named, "barriers"), *decided, *first_few(others, "reasons")]
    return "; ".join(found) or ("mask tensors" if all(n.kind == MASK for n in nodes) else "reads no map")


def first_few(words: list[str], what: str, count: int = 3) -> list[str]:
    """The first of these, and how many more there are."""
    return words if len(words) <= count else [*words[:count], f"{len(words) - count} more {what}"]
