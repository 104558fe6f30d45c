"""Nodes of an ONNX file that plugins run, in place of the bodies of stock operators that they have elsewhere."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx.helper import make_attribute

from ...export.domain import DOMAIN
from ...export.values import graphs

# Of each op, the attributes that its plugin reads, where a node leaves them out.
_DEFAULTS: dict[str, dict[str, int]] = {"EnergyMask": {"patch": 1, "soft": 0}, "DeformableSample": {}}


def keys(plugins: Collection[str]) -> set[tuple[str, str]]:
    """Domain and name of the ops of plugins such as "EnergyMask 1"."""
    return {(DOMAIN, plugin.split()[0]) for plugin in plugins}


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
