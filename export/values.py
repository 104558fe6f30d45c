"""Names of tensors in an ONNX graph: who uses them, and renaming one everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every subgraph of its If, Loop and Scan nodes: they see the outer tensors by name."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Every tensor name in use."""
    names = set()
    for part in graphs(graph):
        names |= {v.name for v in (*part.input, *part.output, *part.initializer, *part.value_info)}
        names |= {name for node in part.node for name in (*node.input, *node.output)}
    return names


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors wherever they are made, used or described."""
    for part in graphs(graph):
        for value in (*part.input, *part.output, *part.initializer, *part.value_info):
            value.name = names.get(value.name, value.name)
        for node in part.node:
            node.input[:] = [names.get(n, n) for n in node.input]
            node.output[:] = [names.get(n, n) for n in node.output]


def unused_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or the first of wanted_2, wanted_3, … that is free; it is taken from then on."""
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name
