"""In which precision a bundle runs: the files that a config's engines are made of, and the types between them."""

from __future__ import annotations

from dataclasses import replace

from .engine import LOWERED, Config, CudaConfig, TensorRTConfig, TorchConfig
from .errors import InputError
from .manifest import ONNX, Manifest
from .nvidia import fitting_plans


def as_built(config: Config, manifest: Manifest) -> Config:
    """`config`; where it leaves its precision open, in the bundle's. Raises InputError where the bundle has no files of
    the one that it asks for."""
    if not isinstance(config, CudaConfig | TorchConfig) or not _takes_types(config):
        return config
    built = next((e.precision for e in manifest.engines if e.flavour == ONNX), "fp32")
    runs = LOWERED[config.backend]
    if config.precision is None:
        return replace(config, precision=built if built in runs else "fp32")
    if config.precision in runs and config.precision != built:
        raise InputError(
            f"precision of backend {config.backend!r}",
            got=f"{config.precision!r}, and a bundle that was built for {built}",
            expected=f"None or {built!r}",
            fix=f"Build it with `foveate build --target {config.backend}:{config.precision}`.",
        )
    return config


def files_for(config: Config, manifest: Manifest) -> dict[str, str] | None:
    """What this config's engines are made of, by the file of programs/ that it stands for; None: of that itself."""
    if isinstance(config, TensorRTConfig):
        return fitting_plans(manifest)
    if not _is_lowered(config):
        return None
    return {engine.program: engine.plan for engine in manifest.engines}


def with_types(config: Config, manifest: Manifest) -> Manifest:
    """The manifest with the types that tensors between this config's engines have."""
    if not manifest.lowered or not _is_lowered(config):
        return manifest
    low = set(manifest.lowered)
    tensors = (replace(t, dtype="float16") if t.name in low else t for t in manifest.tensors)
    return replace(manifest, tensors=tuple(tensors))


def _is_lowered(config: Config) -> bool:
    if not isinstance(config, CudaConfig | TorchConfig) or not _takes_types(config):
        return False
    return config.precision in LOWERED[config.backend]


def _takes_types(config: CudaConfig | TorchConfig) -> bool:
    """Whether it computes in the types of its files. onnxruntime's TensorRT lowers them itself."""
    return isinstance(config, TorchConfig) or config.provider == "cuda"
