"""The ONNX function body, run by unmodified onnxruntime, against the torch op; and the domain's registry."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foveate.export.domain import DOMAIN, VERSION, domain_op, domain_ops
from foveate.export.energy_mask import energy_mask
from foveate.runtime.errors import ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

CHANNELS = 3


@cache
def session(patch: int, soft: int, kind: int = TensorProto.FLOAT, *, suited: bool = True) -> Any:
    """`suited`: with the body for this patch size alone, not the one for files of several."""
    op = domain_op("EnergyMask")
    shapes = {
        "x": ["B", CHANNELS, "H", "W"],
        "weight": [1, CHANNELS * patch**2, 1, 1],
        "bias": [1],
        **{name: [] for name in op.inputs[3:]},
    }
    kinds = {"x": kind, "keep": kind}
    outputs = {"keep": ["B", 1, "H", "W"], "logits": ["B", 1, "h", "w"], "energy": ["B", 1, "h", "w"]}
    node = helper.make_node("EnergyMask", op.inputs, op.outputs, domain=DOMAIN, patch=patch, soft=soft)

    def values(shapes):
        return [
            helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in shapes.items()
        ]

    graph = helper.make_graph([node], "one_mask", values(shapes), values(outputs))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    body = op.function([node] if suited else [])
    model = helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString())


def compare(seed, batch, height, width, patch, soft, suited=True):
    random = np.random.default_rng(seed)
    x = random.standard_normal((batch, CHANNELS, height, width), np.float32)
    weight = random.standard_normal((1, CHANNELS * patch**2, 1, 1), np.float32)
    choices = [np.float32(v) for v in (0.4, 1.2, 0.5, 0.7)]
    given_ = [x, weight, np.array([0.1], np.float32), *map(np.asarray, choices)]
    got = session(patch, int(soft), suited=suited).run(
        None, dict(zip(domain_op("EnergyMask").inputs, given_, strict=True))
    )
    expected = [t.numpy() for t in energy_mask(*map(torch.as_tensor, given_), patch, soft)]
    m = 1 / (1 + np.exp(expected[1] / 1.2))
    clear = np.abs(m - 0.4) > 1e-5  # a tie may fall on either side
    near = clear.repeat(patch, 2).repeat(patch, 3)[:, :, :height, :width]
    np.testing.assert_allclose(np.where(near, got[0], 0), np.where(near, expected[0], 0), atol=1e-5)
    np.testing.assert_allclose(got[1], expected[1], atol=1e-5)
    np.testing.assert_allclose(got[2], expected[2], atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([1, 2, 3, 4]),
    st.booleans(),
    st.booleans(),
)
def test_body_equals_the_torch_op_at_any_size(seed, batch, height, width, patch, soft, suited):
    compare(seed, batch, height, width, patch, soft, suited)


def test_half_precision_features_give_a_half_precision_mask():
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, 5, 6)).astype(np.float16)
    feeds = {"x": x, "weight": np.ones((1, CHANNELS, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    scalars = {name: np.array(1, np.float32) for name in domain_op("EnergyMask").inputs[3:]}
    keep, logits, _ = session(1, 0, TensorProto.FLOAT16).run(
        None, {**feeds, **scalars, "threshold": np.array(0.5, np.float32)}
    )
    assert keep.dtype == np.float16 and logits.dtype == np.float32
    assert np.array_equal(keep == 1, logits < 0)


def test_schema_documents_every_input_output_and_attribute():
    domain_ops()
    schema = onnx.defs.get_schema("EnergyMask", VERSION, DOMAIN)
    assert all(v.description for v in (*schema.inputs, *schema.outputs, *schema.attributes.values()))
    assert [i.name for i in schema.inputs[3:]] == list(domain_op("EnergyMask").choices.values())


def test_unknown_op_names_the_nearest_one():
    with pytest.raises(ProgramError, match="did you mean EnergyMask"):
        domain_op("EnergyMsk", "n0")
    with pytest.raises(ProgramError, match="update foveate"):
        domain_op("Zzz")
