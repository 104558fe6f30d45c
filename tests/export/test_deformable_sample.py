"""Deformable sampling: both bodies of the op in stock onnxruntime, against the torch op and a loop in numpy."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foveate.export.deformable_attention import sample_levels, tokens_of
from foveate.export.deformable_sample import deformable_sample, sample_maps
from foveate.export.domain import domain_op
from foveate.export.normalize import normalize
from foveate.export.ops.deformable_sample import gather_body
from foveate.export.program import SAMPLINGS, export_program
from foveate.runtime.errors import InputError, ProgramError
from hypothesis import given, settings
from torch import Tensor, nn

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

    def numbers(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, dtype=torch.float64, requires_grad=True)

    tensors = numbers(1, 8, 2, 3), numbers(1, 2, 2, 2, 1, 2), numbers(1, 2, 2, 2, 1)
    assert torch.autograd.gradcheck(lambda v, p, w: sample_maps(v, [(2, 3), (1, 2)], p, w), tensors)


class Reader(nn.Module):
    """Each position of an image and of its half reads both, at a point that it says itself."""

    multiple, least = 2, 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places, self.shares = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = images, nn.functional.avg_pool2d(images, 2)
        tokens = tokens_of(maps)
        each = *tokens.shape[:2], 1, 2, 1
        places, shares = self.places(tokens).reshape(*each, 2), self.shares(tokens).reshape(each)
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        return sample_levels(tokens[:, :, None], sizes, places, shares)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_programs_of_either_form(sampling: str, tmp_path: Path) -> None:
    """Their sizes are free, and their answers torch's."""
    model = Reader().eval()
    path = export_program(model, torch.randn(1, 3, 16, 24), tmp_path / "reader.onnx", sampling=sampling)
    program = onnx.load(path)
    dims = [d.dim_param or d.dim_value for d in program.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    assert sum(node.op_type == "DeformableSample" for node in program.graph.node) == 1
    used = {node.op_type for function in program.functions for node in function.node}
    assert ("GridSample" in used) == (sampling == "grid")
    assert not any(p.key == "foveate.decisions" and p.value != "[]" for p in program.metadata_props)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 16, 24), (3, 3, 10, 6), (2, 3, 8, 40)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = model(images).numpy()
        got = np.asarray(session.run(None, {"images": images.numpy()})[0])
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_a_form_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sampling"):
        export_program(Reader(), torch.randn(1, 3, 16, 24), tmp_path / "reader.onnx", sampling="cubic")


@pytest.mark.parametrize("missing", ["sizes", "locations"])
def test_nodes_that_lack_an_input_are_named(missing: str) -> None:
    model = one_node(1)
    node = model.graph.node[0]
    node.input[list(node.input).index(missing)] = ""
    with pytest.raises(ProgramError, match=f"give {missing}"):
        normalize(model)
