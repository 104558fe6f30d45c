"""Engines hold stock operators, and of a decision only what is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from foveate.pipeline.lean import lean

COHERENCE = "Softplus"  # nothing but the energy has one


@pytest.fixture
def program(tiny_program) -> onnx.ModelProto:
    return onnx.load(tiny_program)


def ops(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def run(model: onnx.ModelProto, images: np.ndarray, **choices: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    values: Any = session.run(names, {"images": images, **choices})
    return dict(zip(names, values, strict=True))


def test_an_energy_that_nobody_reads_is_not_computed(program):
    small = lean(program)
    assert not small.functions
    assert COHERENCE not in ops(small)
    assert {i.name for i in small.graph.input} == {"images", "mask0.threshold", "mask0.temperature"}


def test_an_energy_that_is_given_out_is(program):
    program.graph.output.append(give_out("mask0.energy"))
    small = lean(program)
    assert COHERENCE in ops(small)
    assert {"mask0.lambda", "mask0.gamma"} < {i.name for i in small.graph.input}


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_it_answers_as_the_program(program, threshold):
    program.graph.output.append(give_out("mask0.logits"))
    images = np.random.default_rng(0).standard_normal((2, 3, 33, 47), np.float32)
    choices = {"mask0.threshold": np.array(threshold, np.float32)}
    expected, got = run(program, images, **choices), run(lean(program), images, **choices)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_weights_stay_outside(program, monkeypatch):
    """Protobuf cannot serialise 2 GB, and the inliner serialises what it gets."""
    weight = np.random.default_rng(0).standard_normal(10**6).astype(np.float32)
    program.graph.initializer.append(onnx.numpy_helper.from_array(weight, "heavy"))
    program.graph.node.add(op_type="ReduceSum", input=["heavy"], output=["sum"])
    program.graph.output.append(give_out("sum"))
    inline, seen = onnx.inliner.inline_selected_functions, []
    monkeypatch.setattr(
        onnx.inliner, "inline_selected_functions", lambda m, f: seen.append(m.ByteSize()) or inline(m, f)
    )
    small = lean(program)
    assert len(seen) == 1 and seen[0] < 10**5
    held = {i.name: i for i in small.graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(held["heavy"]), weight)


def test_a_choice_that_only_a_branch_reads_stays(program):
    """The energy's lambda as a constant of an If's branches."""
    program.graph.output.append(give_out("chosen"))
    program.graph.initializer.append(onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True]))
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["mask0.lambda"], ["out"])], "branch", [], [give_out("out")]
    )
    node = onnx.helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    program.graph.node.append(node)
    small = lean(program)
    assert "mask0.lambda" in {i.name for i in small.graph.input}
    assert COHERENCE not in ops(small)
    onnxruntime.InferenceSession(small.SerializeToString())


def test_a_model_without_functions_is_left_alone(program):
    plain = lean(program)
    assert lean(plain) is plain


def test_dense_segments_are_lean(tiny_bundle):
    decides = onnx.load(tiny_bundle / "programs/dense0.onnx", load_external_data=False)
    assert not decides.functions and COHERENCE not in ops(decides)
    reference = onnx.load(tiny_bundle / "programs/program.onnx", load_external_data=False)
    assert [f.name for f in reference.functions] == ["EnergyMask"]


def give_out(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
