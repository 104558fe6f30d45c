"""The ops of ai.foveate: kernels against onnxruntime, which runs their function bodies, and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from foveate.export.domain import DOMAIN, STOCK_OPSET, VERSION
from foveate.export.ops import energy_mask
from foveate.runtime.cuda import kernels
from foveate.runtime.device.device import TileGrid
from foveate.runtime.errors import InputError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ...deformable import Case, cases, reference
from .tiles import BACKWARDS, SEEDS, own_cells, tiles_of

few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
INPUTS = ("x", "weight", "bias", "threshold", "temperature", "lambda", "gamma")
_BODIES: dict[tuple[int, int], onnxruntime.InferenceSession] = {}


def body(patch: int, soft: int) -> onnxruntime.InferenceSession:
    """EnergyMask on the CPU, by its function body."""
    if (patch, soft) not in _BODIES:
        node = helper.make_node(
            "EnergyMask", INPUTS, ["keep", "logits", "energy"], domain=DOMAIN, patch=patch, soft=soft
        )
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in INPUTS]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
        opsets = [helper.make_opsetid("", STOCK_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        graph = helper.make_graph([node], "mask", inputs, outputs)
        function = energy_mask.OP.function([node])
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])
        _BODIES[patch, soft] = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    return _BODIES[patch, soft]


@few
@given(
    SEEDS,
    *[st.integers(1, n) for n in (2, 20, 40, 75)],
    st.sampled_from([1, 1, 2, 3]),
    st.booleans(),
    st.sampled_from([np.float32, np.float16]),
    BACKWARDS,
)
def test_energy_mask_is_its_body(device, seed, n, c, h, w, patch, soft, dtype, backwards):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, c, h, w)).astype(dtype)
    x[random.random(x.shape) < 0.1] = 0
    weight = random.standard_normal((1, c * patch**2, 1, 1)).astype(np.float32)
    bias = random.standard_normal(1).astype(np.float32)
    scalars = [np.array(v, np.float32) for v in (random.uniform(0.2, 0.8), 0.7, 1.3, 0.4)]
    whole = [x.astype(np.float32), weight, bias, *scalars]
    bodies: Any = body(patch, soft).run(None, dict(zip(INPUTS, whole, strict=True)))
    keep_body, logits_body, energy_body = bodies

    keep, logits, energy = (
        np.full((n, 1, h, w), 7, dtype),
        np.full_like(logits_body, 7),
        np.full_like(energy_body, 7),
    )
    dirty = np.full((n, h, w), 7, np.uint8)
    positions = 2, 1
    cells = -(-h // 2), w
    grid = TileGrid(cells, (min(3, cells[0]), min(8, cells[1])), (0, 0), (0, 0))
    tiles, scratch = tiles_of(grid, n), np.zeros(kernels.scratch_bytes(n, grid), np.uint8)
    for _ in range(2):  # the second finds the scratch as the first leaves it
        device.run(
            kernels.energy_mask,
            *(
                keep,
                x,
                weight,
                bias,
                *scalars,
                patch,
                soft,
                logits,
                energy,
                dirty,
                (tiles, positions, scratch),
            ),
            backwards=backwards,
        )
    np.testing.assert_allclose(logits, logits_body, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(energy, energy_body, rtol=1e-4, atol=1e-4)
    probability = 1 / (1 + np.exp(logits_body / scalars[1]))
    near = np.abs(probability - scalars[0]) < 1e-5  # where a rounding decides
    near = near.repeat(patch, 2).repeat(patch, 3)[:, :, :h, :w]
    close = np.isclose(keep, keep_body, rtol=1e-3 if dtype == np.float16 else 1e-5)
    assert (close | near).all()
    np.testing.assert_array_equal(dirty, keep[:, 0] != 0)
    found = [
        [image, row, column]
        for image in range(n)
        for row, column, ys, xs in own_cells(grid)
        if dirty[image, ys.start * 2 : ys.stop * 2, xs].any()
    ]
    assert tiles.places[: tiles.count[0]].tolist() == found and not scratch.any()


@few
@given(cases(), st.sampled_from([np.float32, np.float16]), BACKWARDS)
def test_deformable_sampling_is_what_numpy_computes(device, case, dtype, backwards):
    value, sizes, locations, weights = case.feeds.values()
    value, weights = value.astype(dtype), weights.astype(dtype)
    n, q, heads = weights.shape[:3]
    read = np.full((n, q, heads * value.shape[3]), 7, dtype)
    given = (read, value, sizes.astype(np.int64), locations, weights)
    device.run(kernels.deformable_sample, *given, backwards=backwards)
    whole = Case(
        {"value": value.astype(np.float32), "sizes": sizes, "locations": locations, "weights": weights}
    )
    tolerance = 2e-3 if dtype == np.float16 else 1e-5
    np.testing.assert_allclose(read, reference(whole), rtol=tolerance, atol=tolerance)


def test_sizes_of_more_positions_than_tokens_read_nothing_outside(device):
    value = np.ones((1, 4, 1, 4), np.float32)
    sizes, read = np.array([[2, 2], [9, 9]]), np.full((1, 1, 4), 7, np.float32)
    locations, weights = np.full((1, 1, 1, 2, 1, 2), 0.5, np.float32), np.ones((1, 1, 1, 2, 1), np.float32)
    device.run(kernels.deformable_sample, read, value, sizes, locations, weights)
    assert read.tolist() == [[[1] * 4]]


def test_an_array_of_another_shape_is_named(emulation):
    x, weight = np.zeros((1, 4, 2, 2), np.float32), np.zeros((1, 3, 1, 1), np.float32)
    one, scalar = np.zeros(1, np.float32), np.zeros((), np.float32)
    with pytest.raises(
        InputError, match=r"weight: got float32 \[1, 3, 1, 1\]; expected float32 \[1, 4, 1, 1\]"
    ):
        emulation.run(kernels.energy_mask, x[:, :1].copy(), x, weight, one, *[scalar] * 4)
