"""Which bundles built for NVIDIA GPUs run on this machine, and what runs those that do not."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence

from .cuda_device import compute_capability
from .engine import Config, OrtConfig, TensorRTConfig
from .errors import BackendWarning
from .manifest import EngineFile, Manifest


def able(config: Config, manifest: Manifest) -> Config:
    """`config` where its engines run here, else that of onnxruntime, which every bundle has the files of; a
    BackendWarning says why."""
    if not isinstance(config, TensorRTConfig):
        return config
    reason = why_not(manifest)
    if not reason:
        return config
    said = f"{manifest.name!r} runs on onnxruntime, not on TensorRT: {reason}"
    warnings.warn(said, BackendWarning, stacklevel=3)  # of who calls load
    return OrtConfig(threads=config.threads)


def why_not(manifest: Manifest) -> str:
    """Why the engines of a bundle cannot run here; "" where they can."""
    if not manifest.engines:
        return "the bundle was built without such engines (foveate build --target tensorrt)"
    if reason := why_not_here(manifest.engines):
        return reason
    return "this version of foveate builds engines of TensorRT, and does not run them yet"


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
