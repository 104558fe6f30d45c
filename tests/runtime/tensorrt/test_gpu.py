"""An engine that TensorRT-RTX builds here, on a real GPU: what the stand-in cannot show."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from foveate.pipeline.tensorrt.engine_build import build_plan
from foveate.pipeline.tensorrt.flavour import ANY, RTX, open_flavour
from foveate.pipeline.tensorrt.sidecar import describe
from foveate.runtime.device import cuda
from foveate.runtime.device.cuda import CudaDevice
from foveate.runtime.device.driver import open_driver
from foveate.runtime.device.engine import open_on_device
from foveate.runtime.engine import Ports, TensorRTConfig
from foveate.runtime.manifest import TensorSpec

pytestmark = pytest.mark.gpu
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
graph (float[batch, 3, h, w] x, float scale) => (float[batch, 3, h, w] y, float[batch] mean) {
    scaled = Mul (x, scale)
    y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (scaled)
    axes = Constant <value_ints = [1, 2, 3]> ()
    mean = ReduceMean <keepdims = 0> (y, axes)
}
"""
PROFILE = {"x": ((1, 3, 8, 8), (2, 3, 16, 16), (4, 3, 32, 32)), "scale": ((), (), ())}


@pytest.fixture
def device() -> CudaDevice:
    if reason := cuda.why_missing():
        pytest.skip(f"no GPU to run on: {reason}")
    found = CudaDevice(open_driver())
    if found.compute == "sm90":
        pytest.skip("TensorRT-RTX does not support this GPU (sm90)")
    return found


@pytest.mark.parametrize("graph", [False, True])
def test_it_answers_what_onnxruntime_does(device: CudaDevice, tmp_path: Path, monkeypatch, graph: bool):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    program, flavour = tmp_path / "net.onnx", open_flavour(RTX)
    onnx.save(onnx.parser.parse_model(GRAPH), program)
    built = build_plan(program, (PROFILE,), ANY, flavour)
    (tmp_path / "net.any.plan").write_bytes(built.plan)
    sidecar = describe("net.onnx", built, flavour, ANY, "fp32", (PROFILE,))
    (tmp_path / "net.any.json").write_text(json.dumps(dataclasses.asdict(sidecar)))
    ports = Ports(
        (TensorSpec("x", "float32", ("batch", 3, "h", "w")),),
        (TensorSpec("y", "float32", ("batch", 3, "h", "w")), TensorSpec("mean", "float32", ("batch",))),
    )
    engine = open_on_device(tmp_path / "net.any.plan", TensorRTConfig(graph=graph), ports, device)
    session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
    assert engine.optional == ("scale",) and engine.most({"x": (4,)}) == 4
    for batch, size in [(2, 16)] * 6 + [(1, 8), (4, 32), (3, 24)] + [(2, 16)] * 6:
        x = np.random.default_rng(batch * size).random((batch, 3, size, size)).astype(np.float32)
        feeds = {"x": x, "scale": np.array(batch, np.float32)}
        found = device.get(engine.run({name: device.put(value) for name, value in feeds.items()}))
        for mine, expected in zip(found, session.run(["y", "mean"], feeds), strict=True):
            np.testing.assert_allclose(mine, np.asarray(expected), rtol=1e-4, atol=1e-5)
    engine.close()
    assert list((tmp_path / "cache" / "jit").iterdir())
