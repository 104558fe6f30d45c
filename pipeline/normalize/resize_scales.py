"""Resize to `sizes` becomes Resize by `scales` where the ratio is the same at every probed size of whole cells.

A window's `sizes` differ from the image's, its scales do not. Where a map's size is not a multiple of its positions a
cell (15 → 8 → 15), the ratio is another one: those nodes are exact at whole cells only.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx

from ..graph import SHAPE, Graph, attributes, op_key
from ..probe import Probes
from .shape_values import add_value


def resize_scales(model: onnx.ModelProto, probes: Probes) -> set[str]:
    graph = Graph(model)
    added: set[str] = set()
    changed = set()
    for node in model.graph.node:
        if op_key(node) != ("", "Resize"):
            continue
        operand = next((i for i in (3, 2) if len(node.input) > i and node.input[i]), None)
        if operand is None or (operand == 2 and graph.depends.get(node.input[2]) != SHAPE):
            continue  # scales that are already constant
        if operand == 3 and "axes" in attributes(node):
            continue
        scales = _common_scales(node.input[0], node.output[0], probes)
        if scales is None or attributes(node).get("keep_aspect_ratio_policy", "stretch") != "stretch":
            continue
        value = np.array([float(s) for s in scales], np.float32)
        name = add_value(model, f"{node.output[0]}@scales", value, added)
        source, roi = node.input[0], node.input[1]
        del node.input[:]
        node.input.extend([source, roi, name])
        changed.add(node.name)
    return changed


def _common_scales(source: str, output: str, probes: Probes) -> tuple[Fraction, ...] | None:
    found = set()
    for probe in probes.whole:
        before, after = probe.shapes.get(source), probe.shapes.get(output)
        if before is None or after is None or len(before) != len(after) or 0 in before:
            return None
        found.add(tuple(Fraction(b, a) for a, b in zip(before, after, strict=True)))
    return next(iter(found)) if len(found) == 1 else None
