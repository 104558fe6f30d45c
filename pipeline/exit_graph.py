"""An encoder with exits as one graph: behind the stem, each stage is the body of an `If`, run when an image goes on.

The `If`s are flat, one after another, and weights stay outside, where they are held once. In a batch of several depths
all images go as deep as the deepest, and each keeps what it left with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from ..runtime.manifest import ExitChain, TensorSpec

_PREFIX = "exits"


def exit_graph(
    chain: ExitChain,
    stem: onnx.ModelProto,
    stages: Sequence[onnx.ModelProto],
    head: onnx.ModelProto,
    answer: TensorSpec,
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """One model of an encoder's parts, whose weights of one name are the same. `answer`: what an image leaves with, the
    only output that a stage has."""
    made = onnx.ModelProto()
    made.CopyFrom(stem)
    graph, deepest = made.graph, f"{_PREFIX}/deepest"
    graph.node.append(helper.make_node("ReduceMax", [chain.depth], [deepest], keepdims=0))
    left = {
        chain.shallow: chain.shallow
    }  # by answer: what is had in its place, of images that go on the same
    last, before = chain.shallow, chain.first
    for stage, model in zip(chain.stages, stages, strict=True):
        name, found = f"{_PREFIX}/{before}", stage.outputs[0]
        body = _renamed(model, name, left)
        body += _select(name, chain.depth, before, f"{name}/{found}", last, len(answer.shape))
        graph.node.extend(_skip(name, deepest, before, body, last, answer))
        last, before = f"{name}/left", stage.exit
        left[found] = last
    graph.node.extend(_renamed(head, f"{_PREFIX}/head", {chain.chosen: last}, [o.name for o in outputs]))
    known = {o for node in graph.node for o in node.output} | {*left, chain.chosen}
    for part in (*stages, head):
        _add_new(graph.input, [i for i in part.graph.input if i.name not in known])
        _add_new(graph.initializer, part.graph.initializer)
        _add_new(made.functions, part.functions)
    del graph.output[:]
    graph.output.extend(outputs)
    return made


def _select(name: str, depth: str, before: int, found: str, last: str, rank: int) -> list[onnx.NodeProto]:
    """`found` for the images that go beyond `before` layers, what they had `last` for the others."""
    return [
        helper.make_node("Constant", [], [f"{name}/exit"], value_int=before),
        helper.make_node("Greater", [depth, f"{name}/exit"], [f"{name}/goes"]),
        helper.make_node("Constant", [], [f"{name}/axes"], value_ints=list(range(1, rank))),
        helper.make_node("Unsqueeze", [f"{name}/goes", f"{name}/axes"], [f"{name}/each"]),
        helper.make_node("Where", [f"{name}/each", found, last], [f"{name}/then"]),
    ]


def _skip(
    name: str, deepest: str, before: int, body: Sequence[onnx.NodeProto], last: str, answer: TensorSpec
) -> list[onnx.NodeProto]:
    """The body, run where an image goes beyond `before` layers."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(answer.dtype))
    otherwise = [helper.make_node("Identity", [last], [f"{name}/else"])]
    branches = {
        f"{end}_branch": helper.make_graph(
            nodes, f"{name}/{end}", [], [helper.make_tensor_value_info(f"{name}/{end}", kind, None)]
        )
        for end, nodes in (("then", body), ("else", otherwise))
    }
    node = helper.make_node("If", [f"{name}/any"], [f"{name}/left"], name=name)
    node.attribute.extend(helper.make_attribute(key, graph) for key, graph in branches.items())
    return [
        helper.make_node("Constant", [], [f"{name}/before"], value_int=before),
        helper.make_node("Greater", [deepest, f"{name}/before"], [f"{name}/any"]),
        node,
    ]


def _renamed(
    model: onnx.ModelProto, prefix: str, outside: Mapping[str, str], keep: Collection[str] = ()
) -> list[onnx.NodeProto]:
    """Its nodes, with a prefix to the names of what they make, for parts repeat shape arithmetic; but not to those to
    `keep`. `outside`: other names of what they read."""
    names = dict(outside)
    names |= {o: f"{prefix}/{o}" for n in model.graph.node for o in n.output if o and o not in keep}
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        _rename(copy, names)
        copy.output[:] = [names.get(o, o) for o in node.output]
        nodes.append(copy)
    return nodes


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """What it and the graphs in it read."""
    node.input[:] = [names.get(i, i) for i in node.input]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename(inner, names)


def _add_new(values, more) -> None:
    known = {value.name for value in values}
    values.extend(value for value in more if value.name not in known)
