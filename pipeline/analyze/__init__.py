"""Analysis: stride, field and locality of every node of a program, and its mask tensors.

One file per op family: each registers a rule per op type. An op without a rule is a barrier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from ..graph import Graph
from ..normalize import to_local, to_program
from ..normalize.declared_sizes import read_declared_sizes
from ..probe import probe
from . import channels, convolution, elementwise, layout, pooling, resize  # noqa: F401  (they register rules)
from .analysis import BARRIER, DECISION, FLAT, LOCAL, MASK, Analysis, NodeInfo
from .field import Field, Fields
from .walk import Walk

__all__ = [
    "BARRIER",
    "DECISION",
    "FLAT",
    "LOCAL",
    "MASK",
    "Analysis",
    "Field",
    "Fields",
    "NodeInfo",
    "analyze",
]


def analyze(model: onnx.ModelProto, sample_shapes: Mapping[str, Sequence[int]]) -> Analysis:
    """Analyses a program at the given shape of each input.

    Runs it at this and up to three other resolutions to learn its shapes. Raises ProgramError if it does not run at
    the sample's, InputError for a sample that does not fit its inputs; unknown ops are barriers.
    """
    program = to_program(model)
    probes = probe(program, sample_shapes, read_declared_sizes(model))
    local, whole = to_local(program, probes)
    walk = Walk(Graph(local), probes, whole)
    return Analysis(
        Graph(program),
        Graph(local),
        probes,
        tuple(walk.nodes),
        walk.axes,
        frozenset(walk.masks),
        tuple(walk.decisions),
        probes.fixed,
    )
