"""Active work: every layer's minimal exact set, checked against brute force on the tiny network."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from foveate.export.domain import DOMAIN, VERSION, domain_op
from foveate.export.program import load_program
from foveate.pipeline.activity import active_macs
from foveate.pipeline.analyze import analyze
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def tiny(tiny_program):
    return analyze(load_program(tiny_program), {"images": (1, 3, 32, 48)})


def masks_of(keep: np.ndarray) -> dict[str, np.ndarray]:
    """keep [16, 24] and its 2 × 2 pooling."""
    half = keep.reshape(8, 2, 12, 2).max((1, 3))
    return {
        "mask0.keep": keep[None, None].astype(np.float32),
        "mask0.half": half[None, None].astype(np.float32),
    }


def work(tiny, keep):
    return {layer.name: layer for layer in active_macs(tiny, masks_of(keep)).layers}


def test_nothing_active_leaves_the_dense_steps(tiny):
    layers = work(tiny, np.zeros((16, 24), bool))
    assert layers["block0.conv0"].active == 0 and layers["block0.conv0"].active_bytes == 0
    assert layers["stem"].active == 1 and layers["logits"].active_macs == layers["logits"].macs


def test_everything_active_is_the_whole_program(tiny):
    total = active_macs(tiny, masks_of(np.ones((16, 24), bool)))
    assert total.active_macs == total.dense_macs == tiny.macs
    assert total.active_bytes == total.dense_bytes


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.01, 0.6))
def test_a_persistent_mask_makes_every_layer_compute_the_mask_s_own_positions(tiny, seed, share):
    keep = np.random.default_rng(seed).random((16, 24)) < share
    half = masks_of(keep)["mask0.half"]
    layers = work(tiny, keep)
    for name in ("block0.conv0", "block0.conv1"):
        assert layers[name].active == pytest.approx(keep.mean())
    for name in ("block1.conv0", "block1.conv1"):
        assert layers[name].active == pytest.approx(half.mean())
    assert layers["block1.skip"].active == pytest.approx(keep[::2, ::2].mean())  # 1 × 1: reads nothing else


def test_other_sizes_scale_the_dense_work(tiny):
    twice = active_macs(tiny, masks_for(64, 96), size=(64, 96))
    once = active_macs(tiny, masks_for(32, 48))
    head = 160
    assert twice.dense_macs - head == pytest.approx(4 * (once.dense_macs - head))
    assert twice.active_macs - head == pytest.approx(4 * (once.active_macs - head))


def masks_for(height: int, width: int) -> dict[str, np.ndarray]:
    keep = np.zeros((1, 1, height // 2, width // 2), np.float32)
    keep[..., : height // 4, :] = 1
    return {"mask0.keep": keep, "mask0.half": keep[:, :, ::2, ::2]}


def test_a_layer_is_needed_only_where_later_layers_read_it():
    """Two convs between masks: the second computes the mask's position, the first the 3 × 3 that it reads."""
    analysis = analyze(two_convs_between_masks(), {"images": (1, 4, 16, 16)})
    keep = np.zeros((1, 1, 16, 16), np.float32)
    keep[..., 7, 7] = 1
    layers = {layer.name: layer for layer in active_macs(analysis, {"mask0.keep": keep}).layers}
    assert layers["conv1"].active * 256 == 1
    assert layers["conv0"].active * 256 == 9
    assert layers["masked"].active * 256 == 1


def two_convs_between_masks() -> onnx.ModelProto:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    scalars = {
        f"mask0.{k}": v for k, v in {"threshold": 0.5, "temperature": 1, "lambda": 0, "gamma": 0}.items()
    }
    weights = {"gate": np.ones((1, 4, 1, 1)), "bias": np.zeros(1), "w": np.ones((4, 4, 3, 3)), **scalars}
    outputs = ["mask0.keep", "mask0.logits", "mask0.energy"]
    inputs = ["images", "gate", "bias", *scalars]
    nodes = [
        helper.make_node("EnergyMask", inputs, outputs, name="mask0", domain=DOMAIN, patch=1),
        helper.make_node("Mul", ["images", "mask0.keep"], ["masked"], name="masked"),
        helper.make_node("Conv", ["masked", "w"], ["conv0"], name="conv0", pads=[1] * 4),
        helper.make_node("Conv", ["conv0", "w"], ["conv1"], name="conv1", pads=[1] * 4),
        helper.make_node("Mul", ["conv1", "mask0.keep"], ["y"], name="y"),
    ]
    tensors = [onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]
    images = helper.make_tensor_value_info("images", kind, ["batch", 4, "height", "width"])
    graph = helper.make_graph(nodes, "g", [images], [helper.make_tensor_value_info("y", kind, None)], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    functions = [domain_op("EnergyMask").function()]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
