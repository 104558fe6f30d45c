"""From a region's nodes to a span plan."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ...runtime.manifest import Pair
from ...runtime.native.plan import Array, SpanPlan
from ..analyze import LOCAL, Analysis, NodeInfo
from ..analyze.registry import NodeView
from ..geometry import whole_cell
from .fuse import fuse
from .registry import Builder, LoweredNode, Place, Unsupported, lower_node


def lower(
    analysis: Analysis, nodes: Sequence[str], inputs: Sequence[str], outputs: Sequence[str], place: Place
) -> SpanPlan:
    """The plan of the named nodes. Raises Unsupported, whose text names the node that the kernels cannot run."""
    builder = _begin(analysis, inputs, place)
    for name in nodes:
        _add(analysis, name, builder)
    for name in outputs:
        _check_float(analysis, name)
    made = tuple(builder.find(name) for name in outputs)
    ops = fuse(builder.ops, builder.channels, builder.formats, made)
    return SpanPlan(
        names=tuple(builder.names),
        channels=tuple(builder.channels),
        inputs=tuple(range(len(inputs))),
        masks=tuple(i for i, name in enumerate(inputs) if name in analysis.masks),
        outputs=made,
        ops=tuple(ops),
        multiples=_multiples(analysis, nodes, inputs),
        formats=tuple(builder.formats) if any(builder.formats) else (),
    )


def lower_from_inputs(analysis: Analysis) -> tuple[list[str], dict[str, str]]:
    """Names of the nodes that the kernels can run, each reading only the program's inputs and what others of them make:
    what a video's unchanged positions save. And of the nodes that end there, with the reason. Raises Unsupported where
    none can run."""
    left: set[str] = set()
    while True:
        found, refused = _from_inputs(analysis, left)
        leaking = {name for name in found if _leaks(analysis, name, found)}
        if not leaking:
            break
        left |= leaking
    if not found:
        raise Unsupported(next(iter(refused.values()), "it has no local nodes"))
    return found, refused


def _from_inputs(analysis: Analysis, left: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """The same, `left` out."""
    builder = _begin(analysis, analysis.program.inputs, no_place)
    known = set(analysis.program.inputs)
    found: list[str] = []
    refused: dict[str, str] = {}
    for node in analysis.nodes:
        if not set(node.inputs) <= known:
            continue
        leaks = f"{node.name} ({node.op}) makes bytes that other engines read" if node.name in left else ""
        reason = leaks or _try(analysis, node, builder)
        if reason:
            refused[node.name] = reason
            continue
        known.update(node.outputs)
        found.append(node.name)
    return found, refused


def find_foreign(analysis: Analysis, nodes: Sequence[NodeInfo], inputs: Sequence[str]) -> dict[str, str]:
    """Those of a region's nodes that the kernels cannot run even where what they read is given, with the reason."""
    builder = Builder(no_place)
    refused: dict[str, str] = {}
    _give(analysis, inputs, builder)
    for node in nodes:
        reason = _try(analysis, node, builder)
        if reason:
            refused[node.name] = reason
            _give(analysis, node.outputs, builder)
    return refused


def _multiples(analysis: Analysis, names: Sequence[str], inputs: Sequence[str]) -> tuple[Pair, ...]:
    """Of which the inputs' sizes must be multiples for nodes that are exact at whole cells only."""
    by_name = analysis.by_name
    nodes = [by_name[name] for name in names]
    for node in nodes:
        if node.whole_cells:
            cell = whole_cell(nodes)
            if cell is None:
                raise Unsupported(
                    f"{node.name} ({node.op}) depends on its size in a way that kernels cannot follow"
                )
            return tuple(cell.get(name, (1, 1)) for name in inputs)
    return ()


def no_place(values: np.ndarray) -> Array:
    """Where weights are put if a plan is only tried."""
    return Array(0, values.shape)


def _leaks(analysis: Analysis, name: str, found: Collection[str]) -> bool:
    """Whether the node makes bytes that a node not `found` reads, or that are an output."""
    node = analysis.by_name[name]
    if node.op != "QuantizeLinear":
        return False
    read_by = {n.name for n in analysis.nodes if set(node.outputs) & set(n.inputs)}
    return not read_by <= set(found) or bool(set(node.outputs) & set(analysis.program.outputs))


def _begin(analysis: Analysis, inputs: Sequence[str], place: Place) -> Builder:
    builder = Builder(place)
    for name in inputs:
        _check_input(analysis, name)
        builder.tensor(name, analysis.probes.sample.shapes[name][1])
    return builder


def _give(analysis: Analysis, names: Sequence[str], builder: Builder) -> None:
    """Those of these tensors that kernels can read."""
    for name in names:
        try:
            _check_input(analysis, name)
        except Unsupported:
            continue
        builder.tensor(name, analysis.probes.sample.shapes[name][1])


def _check_input(analysis: Analysis, name: str) -> None:
    _check_float(analysis, name)
    if analysis.axes.get(name) != (2, 3) or len(analysis.probes.sample.shapes[name]) != 4:
        raise Unsupported(f"{name} is no map of [batch, channels, height, width]")


def _try(analysis: Analysis, node: NodeInfo, builder: Builder) -> str:
    """Adds the ops of one node, or says why not."""
    if node.kind != LOCAL:
        return f"{node.name} ({node.op}) {node.reason}"
    try:
        _add(analysis, node.name, builder)
    except Unsupported as reason:
        return str(reason)
    return ""


def _add(analysis: Analysis, name: str, builder: Builder) -> None:
    """The ops of one node. Where it raises Unsupported, tensors that it had begun stay behind, which no op makes."""
    node = analysis.local.by_name[name]
    try:
        for output in node.output if node.op_type != "QuantizeLinear" else ():
            _check_float(analysis, output)
        lower_node(LoweredNode(NodeView(node, analysis.local, analysis.probes, analysis.axes), builder))
    except Unsupported as reason:
        raise Unsupported(f"{name} ({node.op_type}) {reason}") from None


def _check_float(analysis: Analysis, name: str) -> None:
    kind = analysis.probes.sample.dtypes.get(name, "float32")
    if name and kind != "float32":
        raise Unsupported(f"{name} is {kind}, and the kernels compute in float32")
