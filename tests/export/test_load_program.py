"""ONNX files that somebody else made with ai.foveate nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foveate.export import load_program
from foveate.export.domain import DOMAIN, VERSION
from foveate.runtime.errors import ProgramError
from onnx import TensorProto, helper, numpy_helper

CHOICES = {"threshold": 0.5, "temperature": 1.0, "lambda": 1e-3, "gamma": 1e-3}


def foreign(
    op="EnergyMask",
    outputs=("k",),
    inputs=("x", "w", "b", "one_half", "one", "price", "price"),
    version=VERSION,
    opset=18,
    attributes=None,
    names=("", ""),
):
    """Two masks in a row that share every constant; bare nodes, no function body, no node names."""
    constants = {
        "w": np.array([-1, 2, 0.5], np.float32).reshape(1, 3, 1, 1),
        "b": np.array([0.2], np.float32),
        "one_half": np.array(0.5, np.float32),
        "price": np.array([1e-3], np.float32),  # [1] instead of a scalar
    }
    one = helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array(1, np.float32)))
    first = helper.make_node(op, inputs, outputs, names[0], domain=DOMAIN, **(attributes or {}))
    later = helper.make_node("EnergyMask", ["y", *inputs[1:]], ["k2"], names[1], domain=DOMAIN)
    graph = helper.make_graph(
        [
            one,
            first,
            helper.make_node("Mul", ["x", "k"], ["y"]),
            later,
            helper.make_node("Mul", ["y", "k2"], ["z"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c, "H", "W"])
            for n, c in (("z", 3), ("k2", 1))
        ],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    if version is not None:
        opsets.append(helper.make_opsetid(DOMAIN, version))
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def load(tmp_path, model):
    onnx.save(model, tmp_path / "foreign.onnx")
    return load_program(tmp_path / "foreign.onnx")


def session_of(model) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString())


def masks(model):
    return [n for n in model.graph.node if n.domain == DOMAIN]


def test_bare_nodes_become_a_program_that_stock_onnxruntime_runs(tmp_path):
    model = load(tmp_path, foreign())
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7), np.float32)
    session = session_of(model)
    z, _ = session.run(None, {"x": x})
    unit = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)
    keep = np.tensordot(unit, np.array([-1, 2, 0.5], np.float32), (1, 0))[:, None] + 0.2 < 0
    np.testing.assert_allclose(z[np.broadcast_to(keep, x.shape)], x[np.broadcast_to(keep, x.shape)])
    assert z[np.broadcast_to(~keep, x.shape)].any() == 0
    half = {f"mask0.{name}": np.array(value, np.float32) for name, value in CHOICES.items()}
    assert np.array_equal(session.run(None, {"x": x, **half})[0], z)
    assert session.run(None, {"x": x, "mask0.threshold": np.array(1, np.float32)})[0].any() == 0


def test_decisions_get_names_outputs_and_choices_of_their_own(tmp_path):
    model = load(tmp_path, foreign())
    first, second = masks(model)
    assert (first.name, second.name) == ("mask0", "mask1")
    assert list(first.output) == ["mask0.keep", "mask0.logits", "mask0.energy"]
    assert list(second.output) == ["k2", "mask1.logits", "mask1.energy"]  # k2 is the model's own output
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for index in (0, 1):
        for name, value in CHOICES.items():
            assert values[f"mask{index}.{name}"].shape == ()
            assert values[f"mask{index}.{name}"] == np.float32(value)
    assert {i.name for i in model.graph.input} == {"x", *(f"mask{i}.{c}" for i in (0, 1) for c in CHOICES)}
    assert not {"w", "price", "one"} & (set(values) | {o for n in model.graph.node for o in n.output})


def test_loading_what_was_loaded_changes_nothing(tmp_path):
    model = load(tmp_path, foreign())
    assert load(tmp_path, model) == model


def test_names_that_others_use_are_left_to_decisions(tmp_path):
    model = foreign(names=("gate", "gate"))
    model.graph.node[2].output[0] = "gate.logits"
    model.graph.node[3].input[0] = model.graph.node[4].input[0] = "gate.logits"
    loaded = load(tmp_path, model)
    assert [n.name for n in masks(loaded)] == ["gate", "mask0"]
    names = [o for n in loaded.graph.node for o in n.output]
    assert len(names) == len(set(names)) and "gate.logits" in names
    x = np.ones((1, 3, 2, 2), np.float32)
    session_of(loaded).run(None, {"x": x})


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23])
def test_newer_stock_opsets_give_the_same_answers(tmp_path, opset):
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 4), np.float32)
    answers = []
    for version in (18, opset):
        model = load(tmp_path, foreign(opset=version))
        answers.append(session_of(model).run(None, {"x": x}))
    assert all(np.array_equal(older, newer) for older, newer in zip(*answers, strict=True))


def test_a_foreign_body_is_replaced_by_the_librarys(tmp_path):
    model = load(tmp_path, foreign())
    del model.functions[0].node[5:]
    assert len(load(tmp_path, model).functions[0].node) > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "EnergyMsk"}, "did you mean EnergyMask"),
        ({"version": None}, "opset import of ai.foveate: got none; expected version 1"),
        ({"version": 2}, "got version 2; expected version 1"),
        ({"opset": 13}, "got 13; expected at least 18"),
        ({"inputs": ("x", "w", "b", "one_half", "one")}, "give lambda, gamma"),
        ({"inputs": ("x", "w", "", "one_half", "one", "price", "price")}, "give bias"),
        ({"attributes": {"mode": "hard"}}, "attributes \\['mode'\\]"),
        ({"inputs": ("x", "w", "b", "w", "one", "price", "price")}, "expected a float32 scalar"),
    ],
)
def test_what_the_maker_must_mend_is_named(tmp_path, change, message):
    with pytest.raises(ProgramError, match=message):
        load(tmp_path, foreign(**change))


def test_files_that_are_not_onnx_are_named(tmp_path):
    path = tmp_path / "program.onnx"
    with pytest.raises(ProgramError, match="no file"):
        load_program(path)
    onnx.save(foreign(), path)
    whole = path.read_bytes()
    for content in (b"", b"not a model", whole[: len(whole) // 2], whole[:-3], bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ProgramError, match="an ONNX model"):
            load_program(path)


def test_a_graph_without_decisions_is_a_program_too(tmp_path):
    model = foreign()
    del model.graph.node[:], model.graph.output[:], model.graph.initializer[:], model.opset_import[1:]
    model.graph.node.append(helper.make_node("Relu", ["x"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, "H", "W"]))
    assert not load(tmp_path, model).functions
