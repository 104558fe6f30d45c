"""Deformable sampling for tests: random cases, one node as a model, and a reference in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from foveate.export.domain import DOMAIN, STOCK_OPSET, VERSION
from hypothesis import strategies as st
from onnx import TensorProto, helper


@dataclass(frozen=True)
class Case:
    """`feeds`: value, sizes, locations and weights, in the op's order."""

    feeds: dict[str, np.ndarray]

    @property
    def levels(self) -> int:
        return len(self.feeds["sizes"])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Maps of one position and more; locations in them, on borders, and far outside."""

    def number(least: int, most: int) -> int:
        return draw(st.integers(least, most))

    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    sizes = np.array([(number(1, 6), number(1, 6)) for _ in range(number(1, 3))])
    batch, queries, heads, points = number(1, 3), number(1, 20), number(1, 3), number(1, 4)
    channels = draw(st.sampled_from([1, 3, 4, 8, 13, 16, 32, 37, 64, 100]))
    each = batch, queries, heads, len(sizes), points
    locations = random.random((*each, 2), np.float32) * 1.6 - 0.3
    some = random.random(locations.shape)
    locations[some < 0.1] = 0
    locations[some > 0.9] = 1
    locations[(some > 0.5) & (some < 0.52)] = -7e5
    tokens = int(sizes.prod(1).sum())
    return Case(
        {
            "value": random.standard_normal((batch, tokens, heads, channels), np.float32),
            "sizes": sizes,
            "locations": locations,
            "weights": random.random(each, np.float32) / (len(sizes) * points),
        }
    )


def one_node(levels: int) -> onnx.ModelProto:
    """All dims free; without a body."""
    dims = {
        "value": (TensorProto.FLOAT, ["B", "S", "heads", "C"]),
        "sizes": (TensorProto.INT64, ["L", 2]),
        "locations": (TensorProto.FLOAT, ["B", "Q", "heads", "L", "P", 2]),
        "weights": (TensorProto.FLOAT, ["B", "Q", "heads", "L", "P"]),
    }
    node = helper.make_node("DeformableSample", list(dims), ["read"], domain=DOMAIN, levels=levels)
    inputs = [helper.make_tensor_value_info(name, *said) for name, said in dims.items()]
    output = helper.make_tensor_value_info("read", TensorProto.FLOAT, ["B", "Q", "D"])
    graph = helper.make_graph([node], "one_sample", inputs, [output])
    opsets = [helper.make_opsetid("", STOCK_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def reference(case: Case) -> np.ndarray:
    """In float64, neighbour by neighbour: [B, Q, heads · C]."""
    value, sizes, locations, weights = case.feeds.values()
    batch, queries, heads, _, points = weights.shape
    read = np.zeros((batch, queries, heads, value.shape[3]))
    where = np.ndindex(batch, queries, heads)
    for b, q, h in where:
        start = 0
        for level, (height, width) in enumerate(sizes):
            for p in range(points):
                x, y = locations[b, q, h, level, p].astype(np.float64) * (width, height) - 0.5
                left, top = int(np.floor(x)), int(np.floor(y))
                for j, i in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                    if 0 <= j < height and 0 <= i < width:
                        share = (1 - abs(y - j)) * (1 - abs(x - i)) * weights[b, q, h, level, p]
                        read[b, q, h] += share * value[b, start + j * width + i, h]
            start += height * width
    return read.reshape(batch, queries, -1)
