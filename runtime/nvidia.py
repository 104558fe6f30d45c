"""Which bundles built for NVIDIA GPUs run on this machine, and what runs those that do not."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence

from .cuda_device import compute_capability
from .engine import Config, OrtConfig, TensorRTConfig, TorchTensorRTConfig
from .errors import BackendWarning
from .manifest import EngineFile, Manifest


def able(config: Config, manifest: Manifest) -> Config:
    """`config` where its engines run here, else that of onnxruntime, which every bundle has the files of; a
    BackendWarning says why."""
    if not isinstance(config, TensorRTConfig | TorchTensorRTConfig):
        return config
    reason = why_not(manifest, config)
    if not reason:
        return config
    name = "TensorRT" if isinstance(config, TensorRTConfig) else "Torch-TensorRT"
    said = f"{manifest.name!r} runs on onnxruntime, not on {name}: {reason}"
    warnings.warn(said, BackendWarning, stacklevel=3)  # of who calls load
    return OrtConfig(threads=config.threads)


def why_not(manifest: Manifest, config: Config) -> str:
    """Why the engines of a bundle cannot run here by that backend; "" where they can."""
    torch = isinstance(config, TorchTensorRTConfig)
    if not manifest.engines or torch != (manifest.engines[0].flavour == "torch_tensorrt"):
        return f"the bundle was built without such engines (foveate build --target {config.backend})"
    if reason := why_not_here(manifest.engines):
        return reason
    return "" if torch else "this version of foveate builds engines of TensorRT, and does not run them yet"


def why_not_here(engines: Sequence[EngineFile]) -> str:
    """Why TensorRT itself runs none of these engines, of one flavour, on this machine; "" where it does."""
    here = compute_capability()
    if not here:
        return "this machine has no NVIDIA GPU, or no driver for it"
    if reason := _why_not_library(engines[0]):
        return reason
    built = sorted({engine.compute for engine in engines})
    if "any" not in built and here not in built:
        return f"its engines are built for {', '.join(built)}, this GPU is {here}"
    if engines[0].flavour == "tensorrt_rtx" and here == "sm90":
        return "TensorRT-RTX does not support this GPU (sm90)"
    return ""


def _why_not_library(engine: EngineFile) -> str:
    """An engine runs in the version that built it alone."""
    try:
        version = str(importlib.import_module(engine.flavour).__version__)
    except Exception as error:  # a library that does not load may raise anything
        return f"{engine.flavour} {engine.version}, which built its engines, does not load ({type(error).__name__})"
    same = version == engine.version
    return "" if same else f"its engines are of {engine.flavour} {engine.version}, here is {version}"
