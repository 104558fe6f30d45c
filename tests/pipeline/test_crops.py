"""Which programs may run on crops of their image, and on what grid."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from foveate.pipeline.analyze import analyze
from foveate.pipeline.crops import plan_crops
from foveate.runtime.manifest import CropPlan, GridTensor

helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
node = helper.make_node


def planned(
    nodes: list[onnx.NodeProto],
    *,
    outputs=("y",),
    shape=("batch", 4, "height", "width"),
    dtype=FLOAT,
    inputs=("x",),
) -> tuple[CropPlan | None, str]:
    tensors = {
        "w": np.ones((4, 4, 3, 3), np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "rows": np.array([0, 4, -1]),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    sample = [n if isinstance(n, int) else 1 if n == "batch" else 96 for n in shape]
    return plan_crops(analyze(model, dict.fromkeys(inputs, sample)))


def conv(x: str, y: str, stride: int = 1, pad: int = 1) -> onnx.NodeProto:
    return node("Conv", [x, "w"], [y], pads=[pad] * 4, strides=[stride] * 2)


def test_cells_are_the_least_common_stride():
    halved = [conv("x", "a", 2), conv("a", "b", 2), conv("b", "c", 2)]
    deep = [*halved, conv("c", "d", 2), conv("d", "e", 2), node("Resize", ["e", "", "twice"], ["y"])]
    plan, reason = planned(deep)
    assert plan == CropPlan(GridTensor("x", (32, 32)), (GridTensor("y", (2, 2)),)) and reason == ""


def test_cells_have_16_pixels_at_least():
    plan, _ = planned([conv("x", "a", 2), conv("a", "y", 2)])
    assert plan == CropPlan(GridTensor("x", (16, 16)), (GridTensor("y", (4, 4)),))


def test_axes_are_found_wherever_they_stand():
    plan, _ = planned([node("Relu", ["x"], ["y"])], shape=("batch", "height", "width", 3))
    assert plan == CropPlan(GridTensor("x", (16, 16), (1, 2)), (GridTensor("y", (16, 16), (1, 2)),))


def test_global_ops_are_welcome():
    plan, _ = planned([node("GlobalAveragePool", ["x"], ["g"]), node("Mul", ["x", "g"], ["y"])])
    assert plan is not None and plan.outputs[0].positions == (16, 16)


@pytest.mark.parametrize(
    ("nodes", "options", "reason"),
    [
        ([node("GlobalAveragePool", ["x"], ["y"])], {}, "output 'y' [batch, 4, 1, 1] is no map"),
        ([conv("x", "y", pad=0)], {}, "output 'y'"),  # two pixels less than the image, whatever its size
        ([node("Reshape", ["x", "rows"], ["y"])], {}, "output 'y'"),
        ([node("Add", ["x", "z"], ["y"])], {"inputs": ("x", "z")}, "2 inputs"),
        ([node("Identity", ["x"], ["y"])], {"dtype": onnx.TensorProto.UINT8}, "uint8"),
        ([node("Relu", ["x"], ["y"])], {"shape": ("batch", 4, 8)}, "no free height and width"),
    ],
)
def test_what_cannot_run_on_crops_is_named(nodes, options, reason):
    plan, found = planned(nodes, **options)
    assert plan is None and reason in found
