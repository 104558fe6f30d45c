"""What a program of torch remembers of the shapes that it has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from foveate.runtime.onnx_torch import program as module
from foveate.runtime.onnx_torch.program import TorchProgram
from onnx import TensorProto, helper


@pytest.fixture
def program(tmp_path: Path) -> TorchProgram:
    """y = x + 1, for any length."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "x.onnx")
    return TorchProgram(tmp_path / "x.onnx", torch.device("cpu"))


def test_the_shape_used_longest_ago_is_recorded_again(program: TorchProgram, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_TAPES", 2)
    tapes = {}
    for length in (1, 2, 1, 3, 1, 2):  # 2 goes for 3, since 1 was used in between
        (made,) = program({"x": torch.zeros(length)}, ["y"])
        assert torch.equal(made, torch.ones(length))
        tapes.setdefault(length, []).append(program.last)
    assert tapes[1][0] is tapes[1][1] is tapes[1][2]
    assert tapes[2][0] is not tapes[2][1]
