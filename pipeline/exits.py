"""Cutting an early-exit encoder into stem, stages and head: what an image leaves early is then not computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from .analyze import Analysis, NodeInfo
from .partition import PartitionStep
from .wants import Wants


@dataclass(frozen=True)
class Stage:
    """The nodes between two exits. `answer`: what images take that leave behind them, `exit` layers deep."""

    exit: int
    answer: str
    nodes: tuple[NodeInfo, ...]


@dataclass(frozen=True)
class ExitParts:
    """A step in three parts. `first`: the stage of no nodes, whose answer the stem has made. `gate`, `scores`,
    `features`: the ExitGate's name, and what it gives and reads; "" where the depth comes from elsewhere."""

    stem: tuple[NodeInfo, ...]
    first: Stage
    stages: tuple[Stage, ...]
    head: tuple[NodeInfo, ...]
    gate: str
    depth: str
    scores: str
    features: str
    chosen: str


def split_exits(analysis: Analysis, wants: Wants, step: PartitionStep) -> ExitParts | str | None:
    """The parts of a step that holds a chain of ExitSelect nodes, None for one without; or why it cannot be cut."""
    selects = [n for n in step.nodes if n.op == "ExitSelect"]
    if not selects:
        return None
    chain = _chain([analysis.program.by_name[n.name] for n in selects])
    if chain is None:
        return "its ExitSelect nodes are not one chain of rising exits over one depth"
    gate = next((n for n in step.nodes if chain[0].input[0] in n.outputs), None)
    exits = [_attribute(node, "exit", 1) for node in chain]
    answers = [*(node.input[1] for node in chain), chain[-1].input[2]]
    name, scores, features, last = "", "", "", exits[-1] + 1
    if gate is not None and gate.op == "ExitGate":
        node = analysis.program.by_name[gate.name]
        name, scores, features = gate.name, gate.outputs[1], node.input[0]
        last = _attribute(node, "exits", [last])[-1]
    chosen = chain[0].output[0]
    head = _behind(chosen, step, wants)
    made = {o for n in head for o in n.outputs}
    read = {s for n in head for s in wants.sources[n.name]} | set(step.outputs)
    needed = [
        chain[0].input[0],
        *filter(None, [scores, features]),
        answers[0],
        *sorted(read - made - {chosen}),
    ]
    stem = wants.of(needed, step.inputs)[0]
    if any(n.op == "ExitSelect" for n in stem):
        return "what lies behind the exits is read beside what they give"
    known, stages = {n.name for n in stem}, []
    for exit, answer in zip([*exits[1:], last], answers[1:], strict=True):
        nodes = [n for n in wants.of([answer], step.inputs)[0] if n.name not in known]
        if not nodes:
            return f"{answer}, behind {exit} layers, is needed by images that leave before"
        known |= {n.name for n in nodes}
        stages.append(Stage(exit, answer, tuple(nodes)))
    first = Stage(exits[0], answers[0], ())
    parts_of = tuple(stem), first, tuple(stages), tuple(head)
    return ExitParts(*parts_of, name, chain[0].input[0], scores, features, chosen)


def borders(
    parts: Sequence[Sequence[NodeInfo]], sources: Mapping[str, Iterable[str]], outputs: Iterable[str]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of each part of a step, in order, what it reads from outside and what it makes that is read outside. `sources`:
    the data that a node reads."""
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    wanted = set(outputs)
    for nodes in reversed(parts):
        made = {o: None for n in nodes for o in n.outputs}
        read = {s: None for n in nodes for s in sources[n.name] if s not in made}
        found.append((tuple(read), tuple(t for t in made if t in wanted)))
        wanted |= set(read)
    return found[::-1]


def _behind(tensor: str, step: PartitionStep, wants: Wants) -> list[NodeInfo]:
    """The step's nodes that depend on it, in order."""
    reached, found = {tensor}, []
    for node in step.nodes:
        if reached & set(wants.sources[node.name]):
            reached.update(node.outputs)
            found.append(node)
    return found


def _chain(selects: list[onnx.NodeProto]) -> list[onnx.NodeProto] | None:
    """From the first exit to the last; None where they are no such chain."""
    by_output = {node.output[0]: node for node in selects}
    inner = {node.input[2] for node in selects}
    outer = [node for node in selects if node.output[0] not in inner]
    if len(outer) != 1:
        return None
    chain = outer
    while (deeper := by_output.get(chain[-1].input[2])) is not None:
        chain.append(deeper)
    exits = [_attribute(node, "exit", 1) for node in chain]
    one_depth = len({node.input[0] for node in chain}) == 1
    return chain if len(chain) == len(selects) and one_depth and exits == sorted(set(exits)) else None


def _attribute(node: onnx.NodeProto, name: str, default):
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
