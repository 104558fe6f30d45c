"""Each operator, exported with free sizes, computes what onnxruntime does, at other sizes than the example's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foveate.pipeline.tensorrt.torch_module import OnnxModule, export
from foveate.runtime.errors import ProgramError

from ...operator_programs import IMAGE, ONE_NODE, operator_program

FREE = ((2, 4, 7, 7), IMAGE, (2, 4, 15, 17))  # of height and width
ONE_SIZE = {"conv, same", "layer norm", "gemm"}  # of pads or weights that fit one
QUANTIZED = [name for name in ONE_NODE if "quantized" in name]
NO_MODULE = {"decided by a size", *QUANTIZED}


def exported(name: str, folder: Path, shapes: Sequence[Sequence[int]]) -> tuple[Path, Any]:
    path = operator_program(ONE_NODE[name], folder)
    return path, export(OnnxModule(onnx.load(path)), {"x": shapes}, {"x": torch.float32}).module()


@pytest.mark.parametrize("name", QUANTIZED)
def test_programs_in_bytes_are_for_tensorrt_itself(name, tmp_path):
    with pytest.raises(ProgramError, match=r"(Q|Deq)uantizeLinear(.|\n)*Build for tensorrt"):
        exported(name, tmp_path, (IMAGE,) * 3)


@pytest.mark.parametrize("name", [name for name in ONE_NODE if name not in NO_MODULE])
def test_it_is_onnxruntimes(name, tmp_path):
    path, module = exported(name, tmp_path, (IMAGE,) * 3 if name in ONE_SIZE else FREE)
    x = np.random.default_rng(0).normal(size=IMAGE).astype(np.float32)
    (found,) = module(torch.from_numpy(x))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = np.asarray(session.run(["y"], {"x": x})[0])
    assert found.shape == expected.shape and found.numpy().dtype == expected.dtype
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"), [("conv, same", "a size that is free"), ("decided by a size", "If")]
)
def test_what_it_cannot_take_is_named_with_its_node(name, reason, tmp_path):
    with pytest.raises(ProgramError, match=rf"node y (.|\n)*{reason}(.|\n)*Build for tensorrt"):
        exported(name, tmp_path, FREE)
