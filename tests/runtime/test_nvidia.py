"""What runs a bundle where there is a GPU, and where something is missing for it."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from foveate.runtime import engines
from foveate.runtime.bundle import Bundle, open_bundle
from foveate.runtime.device.host import HostDevice
from foveate.runtime.engine import Config, CudaConfig, NullConfig, OrtConfig, TensorRTConfig
from foveate.runtime.errors import BackendWarning, EngineError
from foveate.runtime.manifest import EngineFile, Manifest
from foveate.runtime.nvidia import able


def manifest(*computes: str, flavour: str = "tensorrt_rtx") -> Manifest:
    made = tuple(
        EngineFile("programs/a.onnx", f"engines/a.{gpu}.plan", "", flavour, "1.7", gpu, "fp16")
        for gpu in computes
    )
    return Manifest("net", (), (), (), (), engines=made)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets what there is: GPU, version of TensorRT-RTX, onnxruntime's providers, why the device does not open."""

    def make(gpu: str = "sm89", version: str = "1.7", cuda: bool = True, device: str = "") -> None:
        monkeypatch.setattr("foveate.runtime.nvidia.compute_capability", lambda: gpu)
        monkeypatch.setattr("foveate.runtime.device.cuda.why_missing", lambda: device)
        for name in ("tensorrt_rtx", "tensorrt"):
            library = SimpleNamespace(__version__=version) if version else None
            monkeypatch.setitem(sys.modules, name, library)  # type: ignore[arg-type]  # None: cannot be imported
        ort = ModuleType("onnxruntime")
        providers = ["CUDAExecutionProvider"] if cuda else ["CPUExecutionProvider"]
        ort.get_available_providers = lambda: providers  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "onnxruntime", ort)

    return make


@pytest.mark.parametrize("config", [TensorRTConfig(), CudaConfig(), OrtConfig(), NullConfig()])
def test_what_fits_is_taken_without_a_word(machine, config: Config):
    machine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert able(config, manifest("sm120", "sm89")) is config
        assert able(config, manifest("any")) is config


@pytest.mark.parametrize(
    ("there", "built", "taken", "said"),
    [
        ({}, (), CudaConfig, "not on TensorRT: the bundle was built without such engines"),
        ({}, ("sm120",), CudaConfig, "not on TensorRT: its engines are built for sm120, this GPU is sm89"),
        ({"version": "1.8"}, ("sm89",), CudaConfig, "engines are of tensorrt_rtx 1.7, here is 1.8"),
        ({"version": ""}, ("sm89",), CudaConfig, "does not load"),
        ({"gpu": "sm90"}, ("any",), CudaConfig, r"does not support this GPU \(sm90\)"),
        (
            {"gpu": ""},
            ("sm89",),
            OrtConfig,
            "on onnxruntime, not on TensorRT: this machine has no NVIDIA GPU",
        ),
        (
            {"version": "", "cuda": False},
            ("sm89",),
            OrtConfig,
            "on onnxruntime, not on TensorRT: .* not load",
        ),
        ({"device": "no kernels"}, ("sm89",), OrtConfig, "on onnxruntime, not on TensorRT: no kernels"),
    ],
)
def test_engines_that_do_not_fit_are_replaced(machine, there, built, taken: type, said: str):
    machine(**there)
    with pytest.warns(BackendWarning, match=said):
        assert able(TensorRTConfig(threads=3), manifest(*built)) == taken(threads=3)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"gpu": ""}, "not on the GPU: this machine has no NVIDIA GPU"),
        ({"cuda": False}, "not on the GPU: this onnxruntime is the CPU's"),
        ({"device": "no kernels"}, "not on the GPU: no kernels"),
    ],
)
def test_without_cuda_the_cpu_answers(machine, there, said: str):
    machine(**there)
    with pytest.warns(BackendWarning, match=said):
        assert able(CudaConfig(threads=2), manifest()) == OrtConfig(threads=2)


def test_the_plans_of_this_gpu_are_opened(handmade: Path, machine, monkeypatch: pytest.MonkeyPatch):
    machine()
    bundle, opened = open_bundle(handmade), []
    monkeypatch.setattr(
        engines,
        "open_on_device",
        lambda path, *_: opened.append(path.name) or SimpleNamespace(close=lambda: None),
    )
    files = [name for name in bundle.manifest.files if name != "programs/program.onnx"]
    plans = tuple(
        EngineFile(file, f"engines/{Path(file).stem}.{gpu}.plan", "", "tensorrt_rtx", "1.7", gpu, "fp16")
        for file in files
        for gpu in ("sm89", "sm120")
    )
    some = Bundle(bundle.path, replace(bundle.manifest, engines=plans))
    engines.Engines(some, TensorRTConfig(), HostDevice()).close()
    assert sorted(opened) == sorted(f"{Path(file).stem}.sm89.plan" for file in files)
    without = replace(some.manifest, engines=plans[2:])
    with pytest.raises(EngineError, match=f"the engine of {files[0]}"):
        engines.Engines(Bundle(bundle.path, without), TensorRTConfig(), HostDevice())
