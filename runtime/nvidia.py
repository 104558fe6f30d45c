"""What runs a bundle on this machine's NVIDIA GPU, or in its place."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence

from .cuda_device import compute_capability
from .engine import Config, CudaConfig, OrtConfig, TensorRTConfig, TorchConfig, TorchTensorRTConfig
from .errors import BackendWarning
from .manifest import ONNX, EngineFile, Manifest

_PROVIDER = "CUDAExecutionProvider"
_NO_GPU = "this machine has no NVIDIA GPU, or no driver for it"


def able(config: Config, manifest: Manifest) -> Config:
    """`config` where its engines run here, else that of onnxruntime, which every bundle has the files of: on the GPU if
    it can, on the CPU if not; a BackendWarning says why."""
    chosen, reasons = config, []
    if isinstance(chosen, TensorRTConfig | TorchTensorRTConfig) and (reason := why_not(manifest, chosen)):
        name = "TensorRT" if isinstance(chosen, TensorRTConfig) else "Torch-TensorRT"
        reasons.append(f"not on {name}: {reason}")
        chosen = CudaConfig(threads=config.threads)
    if isinstance(chosen, CudaConfig) and (reason := _why_not_cuda()):
        if isinstance(config, CudaConfig):
            reasons.append(f"not on the GPU: {reason}")
        chosen = OrtConfig(threads=config.threads)
    if isinstance(chosen, TorchConfig) and (reason := _why_not_torch(chosen)):
        reasons.append(f"not by torch: {reason}")
        chosen = OrtConfig(threads=config.threads)
    if reasons:
        where = "onnxruntime" if isinstance(chosen, OrtConfig) else "onnxruntime's CUDA provider"
        said = f"{manifest.name!r} runs on {where}, {', '.join(reasons)}"
        warnings.warn(said, BackendWarning, stacklevel=3)  # of who calls load
    return chosen


def why_not(manifest: Manifest, config: Config) -> str:
    """Why the engines of a bundle cannot run here by that backend; "" where they can."""
    torch = isinstance(config, TorchTensorRTConfig)
    built = manifest.engines[0].flavour if manifest.engines else ONNX
    if built == ONNX or torch != (built == "torch_tensorrt"):
        return f"the bundle was built without such engines (foveate build --target {config.backend})"
    if reason := why_not_here(manifest.engines):
        return reason
    return "" if torch else _why_not_device()


def why_not_here(engines: Sequence[EngineFile]) -> str:
    """Why TensorRT itself runs none of these engines, of one flavour, on this machine; "" where it does."""
    here = compute_capability()
    if not here:
        return _NO_GPU
    if reason := _why_not_library(engines[0]):
        return reason
    built = sorted({engine.compute for engine in engines})
    if "any" not in built and here not in built:
        return f"its engines are built for {', '.join(built)}, this GPU is {here}"
    if engines[0].flavour == "tensorrt_rtx" and here == "sm90":
        return "TensorRT-RTX does not support this GPU (sm90)"
    return ""


def fitting_plans(manifest: Manifest) -> dict[str, str]:
    """The plans that were built for this machine's GPU, by the file of programs/ that each is made of."""
    here = compute_capability()
    return {engine.program: engine.plan for engine in manifest.engines if engine.compute in ("any", here)}


def _why_not_device() -> str:
    from .device.cuda import why_missing

    return why_missing()


def _why_not_cuda() -> str:
    """Why onnxruntime cannot run anything on this machine's GPU; "" where it can."""
    if not compute_capability():
        return _NO_GPU
    try:
        providers = importlib.import_module("onnxruntime").get_available_providers()
    except ImportError:
        return "onnxruntime is not installed (pip install 'foveate[gpu]')"
    if _PROVIDER not in providers:
        return "this onnxruntime is the CPU's (pip uninstall onnxruntime; pip install 'foveate[gpu]')"
    return _why_not_device()


def _why_not_torch(config: TorchConfig) -> str:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return "it is not installed (pip install 'foveate[export]')"
    if config.device == "cpu":
        return ""
    return _why_not_device() or ("" if torch.cuda.is_available() else "it is built without CUDA")


def _why_not_library(engine: EngineFile) -> str:
    """An engine runs in the version that built it alone."""
    try:
        version = str(importlib.import_module(engine.flavour).__version__)
    except Exception as error:  # a library that does not load may raise anything
        return f"{engine.flavour} {engine.version}, which built its engines, does not load ({type(error).__name__})"
    same = version == engine.version
    return "" if same else f"its engines are of {engine.flavour} {engine.version}, here is {version}"
