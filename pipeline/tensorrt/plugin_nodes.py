"""Nodes of an ONNX file that plugins run, in place of the bodies of stock operators that they have elsewhere."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx.helper import make_attribute

from ...export.domain import DOMAIN
from ...export.values import graphs
from ..graph import node_inputs, op_key

# Of each op, the attributes that its plugin reads, where a node leaves them out.
_DEFAULTS: dict[str, dict[str, int]] = {"EnergyMask": {"patch": 1, "soft": 0}, "DeformableSample": {}}


def keys(plugins: Collection[str]) -> set[tuple[str, str]]:
    """Domain and name of the ops of plugins such as "EnergyMask 1"."""
    return {(DOMAIN, plugin.split()[0]) for plugin in plugins}


def restore(model: onnx.ModelProto, program: onnx.ModelProto, plugins: Collection[str]) -> None:
    """Puts nodes of the program that plugins run back into a model, in place of the bodies that were inlined there;
    they are known by the names of what they read and make."""
    graph, defaults = model.graph, {i.name: i for i in program.graph.initializer}
    for node in program.graph.node:
        if op_key(node) not in keys(plugins):
            continue
        makers = [
            at for at, n in enumerate(graph.node) if not set(n.output).isdisjoint(filter(None, node.output))
        ]
        known = {o for n in graph.node[: makers[0]] for o in n.output} if makers else set[str]()
        known |= {i.name for i in (*graph.input, *graph.initializer)}
        missing = [name for name in node_inputs(node) if name not in known]
        if not makers or any(op_key(graph.node[at]) == op_key(node) for at in makers):
            continue
        if any(name not in defaults for name in missing):
            continue
        graph.initializer.extend(
            defaults[name] for name in missing
        )  # of what nobody reads here, as the energy
        for at in reversed(makers):
            del graph.node[at]
        graph.node.insert(makers[0], node)
    _drop_dead(graph)


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Nodes and initializers that no output needs."""
    read, live = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            live.append(node)
            read.update(node_inputs(node))
    left = [i for i in graph.initializer if i.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(live))
    graph.initializer.extend(left)


def leave_to_plugins(model: onnx.ModelProto, plugins: Collection[str]) -> tuple[str, ...]:
    """Takes the bodies of their ops out of a model, so that TensorRT's parser takes the plugins, and says all
    attributes. Those that the model needs, sorted."""
    ops = {plugin.split()[0]: plugin for plugin in plugins}
    used = set[str]()
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.domain == DOMAIN and node.op_type in ops:
                used.add(ops[node.op_type])
                said = {attribute.name for attribute in node.attribute}
                left = {k: v for k, v in _DEFAULTS[node.op_type].items() if k not in said}
                node.attribute.extend(make_attribute(name, value) for name, value in left.items())
    kept = [f for f in model.functions if (f.domain, f.name) not in keys(plugins)]
    del model.functions[:]
    model.functions.extend(kept)
    return tuple(sorted(used))
