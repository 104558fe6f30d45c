"""Old exporters list every weight as a graph input. Only choices may stay there: they are not weights to be frozen."""

from __future__ import annotations

import onnx

from ..graph import DOMAIN, op_key


def weights_as_inputs(model: onnx.ModelProto) -> None:
    """Drops those inputs with an initializer that no node of ai.foveate reads."""
    graph = model.graph
    initializers = {i.name for i in graph.initializer}
    choices = {name for node in graph.node if op_key(node)[0] == DOMAIN for name in node.input}
    kept = [i for i in graph.input if i.name not in initializers or i.name in choices]
    if len(kept) < len(graph.input):
        copies = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in kept]
        del graph.input[:]
        graph.input.extend(copies)
    model.ir_version = max(model.ir_version, 4)  # before 4, every initializer had to be an input
