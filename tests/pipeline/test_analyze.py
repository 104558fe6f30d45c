"""Analysis of small graphs: fields, layouts, shape arithmetic and named barriers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
from foveate.pipeline.analyze import BARRIER, FLAT, LOCAL, analyze
from foveate.pipeline.analyze.field import Field
from foveate.runtime.errors import InputError, ProgramError
from hypothesis import given
from hypothesis import strategies as st

helper = onnx.helper


def program(
    nodes, weights=None, opset=18, shape=("batch", 4, "height", "width"), outputs=("y",), functions=()
):
    tensors = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()]
    images = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    results = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", [images], results, tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=list(functions))


def kernel(cout, cin, k):
    return np.random.default_rng(0).standard_normal((cout, cin, k, k)).astype(np.float32)


def analyzed(nodes, weights=None, sample=(1, 4, 32, 48), **more):
    return analyze(program(nodes, weights, **more), {"x": sample})


def only_field(nodes, weights=None, **more):
    """The field of the last node's first input, the same along both axes."""
    found = analyzed(nodes, weights, **more).nodes[-1]
    assert found.kind == LOCAL, found.reason
    y, x = next(iter(found.fields.values()))
    assert y == x
    return y


def node(op, *inputs, **attributes):
    return helper.make_node(op, inputs, ["y"], name="n", **attributes)


F = Fraction


@pytest.mark.parametrize(
    ("made", "weights", "expected"),
    [
        (node("Conv", "x", "w", pads=[1] * 4), {"w": kernel(4, 4, 3)}, Field(F(1), -1, 1)),
        (node("Conv", "x", "w", pads=[1] * 4, strides=[2, 2]), {"w": kernel(4, 4, 3)}, Field(F(2), -1, 1)),
        (node("Conv", "x", "w", pads=[2] * 4, dilations=[2, 2]), {"w": kernel(4, 4, 3)}, Field(F(1), -2, 2)),
        (node("Conv", "x", "w"), {"w": kernel(4, 4, 3)}, Field(F(1), 0, 2)),
        (node("Conv", "x", "w", pads=[0, 0, 1, 1]), {"w": kernel(4, 4, 2)}, Field(F(1), 0, 1)),
        (node("Conv", "x", "w", auto_pad="SAME_UPPER"), {"w": kernel(4, 4, 3)}, Field(F(1), -1, 1)),
        (node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2]), {"w": kernel(4, 4, 3)}, Field(F(2), 0, 2)),
        (node("ConvTranspose", "x", "w", strides=[2, 2]), {"w": kernel(4, 4, 2)}, Field(F(1, 2), 0, 0)),
        (node("ConvTranspose", "x", "w", strides=[2, 2], pads=[1] * 4), {"w": kernel(4, 4, 4)},
         Field(F(1, 2), -1, 1)),
        (node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), {}, Field(F(2), -1, 1)),
        (node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), {}, Field(F(2), 0, 1)),
        (node("Resize", "x", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric",
              nearest_mode="floor"), {"s": np.array([1, 1, 2, 2], np.float32)}, Field(F(1, 2), 0, 0)),
        (node("Resize", "x", "", "s", mode="linear"), {"s": np.array([1, 1, 2, 2], np.float32)},
         Field(F(1, 2), -1, 1)),
        (node("Resize", "x", "", "s", mode="linear"), {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
         Field(F(2), 0, 1)),
        (node("DepthToSpace", "x", blocksize=2), {}, Field(F(1, 2), 0, 0)),
        (node("SpaceToDepth", "x", blocksize=2), {}, Field(F(2), 0, 1)),
        (node("Pad", "x", "p"), {"p": np.array([0, 0, 2, 2, 0, 0, 1, 1])}, Field(F(1), -2, -2)),
        (node("Slice", "x", "a", "b", "c"), {"a": np.array([1, 1]), "b": np.array([-1, -1]), "c": np.array([2, 3])},
         Field(F(1), 1, 2)),
        (node("Softmax", "x", axis=1), {}, Field()),
        (node("Mul", "x", "c"), {"c": np.ones((4, 1, 1), np.float32)}, Field()),
    ],
)  # fmt: skip
def test_fields(made, weights, expected):
    assert only_field([made], weights) == expected


def test_layouts_are_followed_through_transposes():
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["a", "g", "g"], ["b"], axis=-1),
        helper.make_node("MatMul", ["b", "m"], ["c"]),
        helper.make_node("Softmax", ["c"], ["d"], axis=-1),
        helper.make_node("Transpose", ["d"], ["e"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["e", "w"], ["y"], pads=[1] * 4),
    ]
    ones = np.ones(4, np.float32)
    found = analyzed(nodes, {"g": ones, "m": np.eye(4, dtype=np.float32), "w": kernel(4, 4, 3)})
    assert [n.kind for n in found.nodes] == [LOCAL] * 6
    assert found.axes["c"] == (1, 2) and found.axes["y"] == (2, 3)


BARRIERS = [
    ("global pooling", [node("GlobalAveragePool", "x")], {}, "pools the whole map"),
    ("reduction", [node("ReduceMean", "x", "a")], {"a": np.array([2, 3])}, "reduces over height or width"),
    ("instance norm", [node("InstanceNormalization", "x", "o", "o")], {"o": np.ones(4, np.float32)}, "normalizes"),
    ("aligned corners",
     [node("Resize", "x", "", "s", mode="linear", coordinate_transformation_mode="align_corners")],
     {"s": np.array([1, 1, 2, 2], np.float32)}, "align_corners"),
    ("unknown op", [helper.make_node("Odd", ["x"], ["y"], name="n", domain="custom")], {}, None),
    ("softmax over positions", [node("Softmax", "x", axis=3)], {}, "height or width"),
    ("positions picked", [node("Gather", "x", "i", axis=2)], {"i": np.array([0, 1])}, "by index"),
    ("crop at a fixed position", [node("Slice", "x", "a", "b", "c")],
     {"a": np.array([0]), "b": np.array([8]), "c": np.array([2])}, "fixed position"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"), [b[1:] for b in BARRIERS], ids=[b[0] for b in BARRIERS]
)
def test_barriers_name_node_op_and_reason(nodes, weights, reason):
    functions = []
    if reason is None:
        body = [helper.make_node("Neg", ["a"], ["b"])]
        functions = [helper.make_function("custom", "Odd", ["a"], ["b"], body, [helper.make_opsetid("", 18)])]
        # Functions of other domains are looked into: this one is local once it is inlined.
        assert analyzed(nodes, weights, functions=functions).barriers == ()
        return
    barriers = analyzed(nodes, weights).barriers
    assert barriers[0].startswith(f"n ({nodes[0].op_type}): ") and reason in barriers[0]


@pytest.mark.parametrize(("opset", "local"), [(11, False), (13, True)])
def test_softmax_over_channels_is_local_since_opset_13(opset, local):
    assert (analyzed([node("Softmax", "x", axis=1)], opset=opset).nodes[0].kind == LOCAL) is local


def test_an_op_without_a_rule_is_a_barrier_with_its_name():
    found = analyzed([node("Det", "x")], sample=(1, 4, 64, 64), shape=("batch", 4, 64, 64))
    assert found.barriers == ("n (Det): unknown op",)


def test_squeeze_excite_is_a_barrier_and_what_follows_is_a_map_again():
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"),
        helper.make_node("Sigmoid", ["p"], ["s"], name="gate"),
        helper.make_node("Mul", ["x", "s"], ["m"], name="scale"),
        helper.make_node("Conv", ["m", "w"], ["y"], name="conv", pads=[1] * 4),
    ]
    kinds = {n.name: n.kind for n in analyzed(nodes, {"w": kernel(4, 4, 3)}).nodes}
    assert kinds == {"pool": BARRIER, "gate": FLAT, "scale": BARRIER, "conv": LOCAL}


def test_attention_over_positions_is_a_barrier():
    nodes = [
        helper.make_node("Reshape", ["x", "tokens"], ["t"], name="tokens"),
        helper.make_node("Transpose", ["t"], ["u"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["u", "t"], ["a"], name="scores"),
        helper.make_node("Softmax", ["a"], ["y"], name="softmax", axis=-1),
    ]
    found = analyzed(nodes, {"tokens": np.array([0, 4, -1])})
    assert not [n for n in found.nodes if n.kind == LOCAL]
    assert found.barriers[0].startswith("tokens (Reshape): mixes height and width")


def test_a_map_of_constants_is_a_barrier():
    found = analyzed([node("Add", "x", "p")], {"p": np.zeros((4, 32, 48), np.float32)}, shape=(1, 4, 32, 48))
    assert "spatial extent" in found.barriers[0]
    assert "the program runs at the sample's resolution only" in found.notes[0]


def test_sizes_from_shape_arithmetic_become_scales():
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Shape", ["p"], ["q"]),
        helper.make_node("Slice", ["q", "zero", "two"], ["bc"]),
        helper.make_node("Concat", ["bc", "hw"], ["sizes"], axis=0),
        helper.make_node("Resize", ["p", "", "", "sizes"], ["r"], name="grow", mode="nearest"),
        helper.make_node("Add", ["r", "x"], ["y"]),
    ]
    weights = {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4])}
    found = analyzed(nodes, weights, sample=(1, 4, 33, 47))
    grow = found.by_name["grow"]
    assert grow.kind == LOCAL and grow.whole_cells and grow.fields["p"][0].stride == F(1, 2)
    assert [n.op for n in found.nodes] == ["MaxPool", "Resize", "Add"]
    assert found.program.by_name["grow"].input[3] == "sizes"  # the program keeps what was exported


def test_baked_sizes_are_freed():
    nodes = [node("Conv", "x", "w", pads=[1] * 4)]
    found = analyze(program(nodes, {"w": kernel(4, 4, 3)}, shape=(1, 4, 16, 16)), {"x": (1, 4, 16, 16)})
    assert found.notes == ()
    assert found.probes.runs[1].shapes["y"] == (2, 4, 64, 128)


def test_identities_and_constants_are_lifted():
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b"]),
        helper.make_node("Constant", [], ["c"], value_float=2.0),
        helper.make_node("Mul", ["b", "c"], ["m"]),
        helper.make_node("Identity", ["m"], ["y"]),
    ]
    found = analyzed(nodes)
    assert [n.op for n in found.nodes] == ["Mul", "Identity"]
    assert list(found.nodes[0].inputs) == ["x"]


def test_macs():
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4, strides=[2, 2], group=2)]
    weight = {"w": kernel(8, 2, 3)}
    assert analyzed(nodes, weight, sample=(1, 4, 32, 48)).macs == 16 * 24 * 8 * 2 * 9


def test_errors_are_named():
    model = program([node("Conv", "x", "w")], {"w": kernel(4, 4, 3)})
    with pytest.raises(InputError, match="sample shape"):
        analyze(model, {"x": (1, 3, 32)})
    with pytest.raises(ProgramError, match="learn its shapes"):
        analyze(model, {"x": (1, 4, 2, 2)})


fields = st.builds(
    Field,
    st.fractions(min_value=F(1, 4), max_value=4, max_denominator=4),
    st.integers(-3, 0),
    st.integers(0, 3),
)


@given(outer=fields, inner=fields, o=st.integers(0, 200))
def test_composed_fields_are_the_hull_of_all_paths(outer, inner, o):
    """Exactly: no path leaves it, and some output of a period reaches each end."""
    both = outer.of(inner)
    assert both.first(o) <= inner.first(outer.first(o)) and inner.last(outer.last(o)) <= both.last(o)
    period = range(outer.stride.denominator * inner.stride.denominator)
    assert any(both.first(i) == inner.first(outer.first(i)) for i in period)
    assert any(both.last(i) == inner.last(outer.last(i)) for i in period)


def same_padding_by_arithmetic(stride: int):
    """Nodes that pad x for ⌈n / stride⌉ outputs of a 3×3 kernel, as TensorFlow-style networks are exported."""
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["size"], start=2, end=4),
        make("Add", ["size", "s_less_1"], ["above"]),
        make("Div", ["above", "s"], ["outputs"]),
        make("Sub", ["outputs", "one"], ["steps"]),
        make("Mul", ["steps", "s"], ["reach"]),
        make("Add", ["reach", "kernel"], ["needed"]),
        make("Sub", ["needed", "size"], ["missing"]),
        make("Max", ["missing", "zero"], ["total"]),
        make("Div", ["total", "two"], ["before"]),
        make("Sub", ["total", "before"], ["after"]),
        make("Concat", ["zeros", "before", "zeros", "after"], ["pads"], axis=0),
        make("Pad", ["x", "pads"], ["padded"], name="pad"),
        make("Conv", ["padded", "w"], ["y"], name="conv", strides=[stride] * 2),
    ]
    numbers = {"s_less_1": stride - 1, "s": stride, "one": 1, "kernel": 3, "zero": 0, "two": 2}
    weights = {k: np.array([v]) for k, v in numbers.items()} | {
        "zeros": np.array([0, 0]),
        "w": kernel(4, 4, 3),
    }
    return nodes, weights


def test_same_padding_by_shape_arithmetic_becomes_that_of_whole_cells():
    nodes, weights = same_padding_by_arithmetic(2)
    found = analyzed(nodes, weights)
    assert found.by_name["pad"].kind == LOCAL and found.by_name["pad"].whole_cells
    assert found.by_name["conv"].fields["padded"][0] == Field(F(2), 0, 2)
    assert found.probes.constant("pads") is None


def test_pads_by_other_arithmetic_are_a_barrier():
    nodes, weights = same_padding_by_arithmetic(2)
    weights["kernel"] = np.array([4])  # not what the conv behind it has
    assert analyzed(nodes, weights).barriers == ("pad (Pad): an operand depends on the resolution",)
