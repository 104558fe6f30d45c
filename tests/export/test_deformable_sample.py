"""Deformable sampling: both bodies of the op in stock onnxruntime, against the torch op and a loop in numpy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foveate.export.deformable_sample import deformable_sample, sample_maps
from foveate.export.domain import domain_op
from foveate.export.ops.deformable_sample import gather_body
from hypothesis import given, settings

from ..deformable import Case, cases, one_node, reference


@cache
def session(levels: int, form: str) -> Any:
    model = one_node(levels)
    body = gather_body() if form == "gather" else domain_op("DeformableSample").function(model.graph.node)
    model.functions.append(body)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@settings(max_examples=60, deadline=None)
@given(cases())
def test_both_bodies_and_the_torch_op_read_the_same(case: Case) -> None:
    wanted = reference(case)
    tensors = [torch.as_tensor(value) for value in case.feeds.values()]
    np.testing.assert_allclose(deformable_sample(*tensors).numpy(), wanted, rtol=0, atol=2e-6)
    by_form = {form: session(case.levels, form).run(None, case.feeds)[0] for form in ("grid", "gather")}
    for got in by_form.values():
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_points_far_outside_and_on_borders() -> None:
    """One map of ones: a point on its border has half of its neighbours, on a corner a quarter, outside none."""
    places = [(0, 0.5), (1, 0.5), (0, 0), (1, 1), (0.5, 0.5), (-3, 0.5), (0.5, 1e6), (-1e6, 0.1), (1e6, 1e6)]
    locations = np.array(places, np.float32).reshape(1, len(places), 1, 1, 1, 2)
    feeds = {
        "value": np.ones((1, 12, 1, 2), np.float32),
        "sizes": np.array([[3, 4]]),
        "locations": locations,
        "weights": np.ones((1, len(places), 1, 1, 1), np.float32),
    }
    for form in ("grid", "gather"):
        got = np.asarray(session(1, form).run(None, feeds)[0])
        np.testing.assert_allclose(got[0, :, 0], [0.5, 0.5, 0.25, 0.25, 1, 0, 0, 0, 0], atol=1e-6)
        np.testing.assert_array_equal(got[0, :, 0], got[0, :, 1])


def test_nodes_of_several_numbers_of_levels_share_one_body() -> None:
    nodes = [one_node(levels).graph.node[0] for levels in (1, 2)]
    op = domain_op("DeformableSample")
    assert {n.op_type for n in op.function(nodes).node} == {n.op_type for n in gather_body().node}
    assert "GridSample" in {n.op_type for n in op.function(nodes[:1]).node}


def test_what_is_trained_has_gradients() -> None:
    random = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=random, dtype=torch.float64, requires_grad=True)

    tensors = numbers(1, 8, 2, 3), numbers(1, 2, 2, 2, 1, 2), numbers(1, 2, 2, 2, 1)
    assert torch.autograd.gradcheck(lambda v, p, w: sample_maps(v, [(2, 3), (1, 2)], p, w), tensors)


@pytest.mark.parametrize("missing", ["sizes", "locations"])
def test_nodes_that_lack_an_input_are_named(missing: str) -> None:
    from foveate.export.normalize import normalize
    from foveate.runtime.errors import ProgramError

    model = one_node(1)
    node = model.graph.node[0]
    node.input[list(node.input).index(missing)] = ""
    with pytest.raises(ProgramError, match=f"give {missing}"):
        normalize(model)
