"""From a region's nodes to a span plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...runtime.native.plan import Array, SpanPlan
from ..analyze import LOCAL, Analysis
from ..analyze.registry import NodeView
from .fuse import fuse
from .registry import Builder, LoweredNode, Place, Unsupported, lower_node


def lower(
    analysis: Analysis, nodes: Sequence[str], inputs: Sequence[str], outputs: Sequence[str], place: Place
) -> SpanPlan:
    """The plan of the named nodes. Raises Unsupported, whose text names the node that the kernels cannot run."""
    builder = Builder(place)
    for name in inputs:
        _check_float(analysis, name)
        if analysis.axes.get(name) != (2, 3) or len(analysis.probes.sample.shapes[name]) != 4:
            raise Unsupported(f"{name} is no map of [batch, channels, height, width]")
        builder.tensor(name, analysis.probes.sample.shapes[name][1])
    for name in nodes:
        node = analysis.local.by_name[name]
        try:
            for output in node.output:
                _check_float(analysis, output)
            lower_node(LoweredNode(NodeView(node, analysis.local, analysis.probes, analysis.axes), builder))
        except Unsupported as reason:
            raise Unsupported(f"{name} ({node.op_type}) {reason}") from None
    made = tuple(builder.find(name) for name in outputs)
    ops = fuse(builder.ops, builder.channels, made)
    return SpanPlan(
        names=tuple(builder.names),
        channels=tuple(builder.channels),
        inputs=tuple(range(len(inputs))),
        masks=tuple(i for i, name in enumerate(inputs) if name in analysis.masks),
        outputs=made,
        ops=tuple(ops),
    )


def lower_from_inputs(analysis: Analysis) -> list[str]:
    """Names of the nodes that the kernels can run, each reading only the program's inputs and what others of them make:
    what a video's unchanged positions save. Raises Unsupported where there is none."""
    builder = Builder(lambda values: Array(0, values.shape))
    known = set(analysis.program.inputs)
    for name in analysis.program.inputs:
        if analysis.axes.get(name) != (2, 3) or len(analysis.probes.sample.shapes[name]) != 4:
            raise Unsupported(f"input {name} is no map of [batch, channels, height, width]")
        _check_float(analysis, name)
        builder.tensor(name, analysis.probes.sample.shapes[name][1])
    found: list[str] = []
    reason = ""
    for info in analysis.nodes:
        if not set(info.inputs) <= known:
            continue
        node = analysis.local.by_name[info.name]
        trial = dataclasses.replace(
            builder, names=[*builder.names], channels=[*builder.channels], ops=[*builder.ops]
        )
        try:
            if info.kind != LOCAL:
                raise Unsupported(info.reason)
            for output in node.output:
                _check_float(analysis, output)
            lower_node(LoweredNode(NodeView(node, analysis.local, analysis.probes, analysis.axes), trial))
        except Unsupported as refused:
            reason = reason or f"{info.name} ({info.op}) {refused}"
            continue
        builder = trial
        known.update(info.outputs)
        found.append(info.name)
    if not found:
        raise Unsupported(reason or "it has no local nodes")
    return found


def _check_float(analysis: Analysis, name: str) -> None:
    kind = analysis.probes.sample.dtypes.get(name, "float32")
    if name and kind != "float32":
        raise Unsupported(f"{name} is {kind}, and the kernels compute in float32")
