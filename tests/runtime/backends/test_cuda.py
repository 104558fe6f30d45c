"""The `cuda` backend. Without a GPU its sessions are those of onnxruntime on the CPU, bound to the memory of a GPU that
is none: the same calls, on the same pointers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foveate.runtime.backends import cuda
from foveate.runtime.device import replay
from foveate.runtime.device.cuda import CudaDevice
from foveate.runtime.device.driver import Driver, open_driver
from foveate.runtime.device.engine import open_on_device
from foveate.runtime.engine import CudaConfig, Ports
from foveate.runtime.errors import EngineError, InputError, MissingExtraError
from foveate.runtime.manifest import TensorSpec

from ..device.cuda.fake_driver import FakeLibrary

PORTS = Ports(
    (TensorSpec("x", "float32", ("batch", 4)),),
    (TensorSpec("y", "float32", ("batch", 4)), TensorSpec("positive", "int64", ("found",))),
)
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
graph (float[batch, 4] x, float scale) => (float[batch, 4] y, int64[2, found] positive) <float scale = {2.0}> {
    y = Mul (x, scale)
    positive = NonZero (y)
}
"""


@pytest.fixture
def program(tmp_path) -> Path:
    """y = scale · x, where `scale` is a choice; and the places where it is not 0, whose number only the data tell."""
    path = tmp_path / "program.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH), path)
    return path


@pytest.fixture
def gpu() -> FakeLibrary:
    return FakeLibrary(eager=True)


@pytest.fixture
def on_host(gpu, monkeypatch) -> CudaDevice:
    monkeypatch.setattr(cuda, "_DEVICE", "cpu")
    monkeypatch.setattr(cuda, "PROVIDERS", {"cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(cuda, "providers", lambda *_: ["CPUExecutionProvider"])
    return CudaDevice(Driver(gpu))


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request) -> CudaDevice:
    if request.param == "host":
        return request.getfixturevalue("on_host")
    if reason := why_not():
        pytest.skip(f"no GPU to run on: {reason}")
    return CudaDevice(open_driver())


def why_not() -> str:
    import onnxruntime
    from foveate.runtime.device.cuda import why_missing

    found = cuda.PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    return why_missing() or ("" if found else "onnxruntime has no CUDA provider")


def check(device: CudaDevice, engine: Any, batch: int, **choices: float) -> list[Any]:
    x = np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)
    x[0, 0] = 0
    feeds = {"x": device.put(x)} | {n: device.put(np.array(v, np.float32)) for n, v in choices.items()}
    outputs = engine.run(feeds)
    y, positive = device.get(outputs)
    np.testing.assert_array_equal(y, x * np.float32(choices.get("scale", 2)))
    np.testing.assert_array_equal(positive, np.stack(np.nonzero(y)))
    return outputs


def test_an_engine_runs_on_the_devices_memory(program, device):
    engine = open_on_device(program, CudaConfig(), PORTS, device)
    assert (engine.inputs, engine.optional, engine.outputs) == (("x",), ("scale",), ("y", "positive"))
    assert engine.most({}) == 0
    for batch in (1, 3, 1):
        check(device, engine, batch)
    check(device, engine, 2, scale=-1.5)
    engine.close()
    with pytest.raises(EngineError, match="after close"):
        check(device, engine, 1)


def test_outputs_outlive_their_engine(program, device):
    engine = open_on_device(program, CudaConfig(), PORTS, device)
    first, _ = check(device, engine, 3)
    (before,) = device.get([first])
    for batch in range(1, 5):
        check(device, engine, batch)
    engine.close()
    del engine
    np.testing.assert_array_equal(device.get([first])[0], before)
    view = first.view((1, 4))
    del first
    np.testing.assert_array_equal(device.get([view])[0], before[:1])


def test_what_it_cannot_run_is_named_with_what_it_was_fed(program, device):
    engine = open_on_device(program, CudaConfig(), PORTS, device)
    with pytest.raises(EngineError, match=r"program.onnx(.|\n)*fed x float64 \[2, 4\]"):
        engine.run({"x": device.put(np.zeros((2, 4)))})
    check(device, engine, 2)


def test_sessions_that_capture_replay_what_comes_back(on_host, tmp_path, monkeypatch):
    """On the CPU there is nothing to capture: the runs of the prepared binding are what they would be."""
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    monkeypatch.setattr(cuda, "_run_options", lambda graph: made.append(graph))
    path, made, device = tmp_path / "program.onnx", [], on_host
    text = "<ir_version: 9, opset_import: ['': 18]> graph (float[n] x) => (float[n] y) { y = Neg (x) }"
    onnx.save(onnx.parser.parse_model(text.replace("'", '"')), path)
    spec = (TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("n",)),)
    engine = open_on_device(path, CudaConfig(graph=True), Ports(*spec), device)
    kept = []
    for number in range(8):
        x = np.full(3, number, np.float32)
        (y,) = engine.run({"x": device.put(x)})
        kept.append((x, y))
    for x, y in kept:
        np.testing.assert_array_equal(device.get([y])[0], -x)
    assert made == ["-1", "1"]  # none, and the first


def test_a_program_that_cannot_be_captured_runs_without(program, on_host, monkeypatch, caplog):
    def providers(config: CudaConfig, device: CudaDevice, captures: bool) -> list[str]:
        if captures:
            raise RuntimeError("this session cannot use the graph capture feature")
        return ["CPUExecutionProvider"]

    monkeypatch.setattr(cuda, "providers", providers)
    with caplog.at_level("INFO", "foveate"):
        engine = open_on_device(program, CudaConfig(graph=True), PORTS, on_host)
    assert "runs without CUDA graphs: RuntimeError: this session" in caplog.text
    check(on_host, engine, 2)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CudaConfig(), {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "0"}),
        (CudaConfig(precision="tf32", nhwc=True), {"use_tf32": "1", "prefer_nhwc": "1"}),
    ],
)
def test_the_provider_is_told_what_was_chosen(config, expected, gpu):
    device = CudaDevice(Driver(gpu))
    ((name, options),) = cuda.providers(config, device, False)
    assert name == "CUDAExecutionProvider" and expected.items() <= options.items()
    assert options["user_compute_stream"] == str(device.queue.stream)
    assert all(isinstance(value, str) for value in options.values())


def test_tensorrts_provider_comes_first(gpu, monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    chosen = cuda.providers(CudaConfig(provider="tensorrt", precision="fp16"), CudaDevice(Driver(gpu)), False)
    assert [name for name, _ in chosen] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert chosen[0][1]["trt_fp16_enable"] == "1" and chosen[0][1]["trt_engine_cache_path"].startswith(
        str(tmp_path)
    )


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        (CudaConfig(provider="tensort"), InputError, "Did you mean 'tensorrt'"),
        (CudaConfig(precision="bf16"), InputError, "fp32, tf32, fp16"),
        (CudaConfig(provider="tensorrt", graph=True), InputError, "graph"),
        (CudaConfig(), MissingExtraError, r"foveate\[gpu\]"),
    ],
)
def test_what_is_not_there_is_named(program, gpu, config, error, match, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(error, match=match):
        open_on_device(program, config, PORTS, CudaDevice(Driver(gpu)))


def test_a_provider_that_does_not_load_is_named(program, on_host, monkeypatch):
    """onnxruntime falls back to the CPU where CUDA's libraries are missing; that would be no engine on the GPU."""
    import onnxruntime

    monkeypatch.setattr(cuda, "PROVIDERS", {"cuda": "CUDAExecutionProvider"})
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(EngineError, match=r"CUDAExecutionProvider(.|\n)*none that loads"):
        open_on_device(program, CudaConfig(), PORTS, on_host)
