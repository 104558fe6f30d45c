"""What differs between the two flavours of TensorRT, and their versions, when engines are built.

TensorRT-RTX builds without a GPU, for any of the GPUs that it knows or for chosen ones. Full TensorRT builds on the GPU
that will run the engine, which it times. What else differs is in runtime/tensorrt/flavour.py.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

from ...runtime.cuda_device import compute_capability
from ...runtime.errors import InputError, MissingExtraError
from ...runtime.tensorrt import flavour
from ...runtime.tensorrt.flavour import FULL, RTX

TORCH = "torch_tensorrt"
GIVEN_MEMORY = "REQUIRE_USER_ALLOCATION"
ANY = "any"  # every GPU that TensorRT-RTX knows


class Flavour(flavour.Flavour):
    """One of the two, as installed, to build with."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What engines are built with, beside their precision and profile."""
        own_memory = () if self.given_memory is None else (GIVEN_MEMORY,)
        return ("NO_TF32", *own_memory, "STRONGLY_TYPED")

    @property
    def given_memory(self) -> Any:
        """The flag of TensorRT-RTX for engines that take no memory of their own, so that their runs can be captured in
        CUDA graphs; None where it has none. Networks whose shapes only the data tell do not build with it."""
        return getattr(self.module.BuilderFlag, GIVEN_MEMORY, None) if self.name == RTX else None

    def network(self, builder: Any) -> Any:
        """An empty network, strongly typed: types are what the ONNX file says. Newer versions know no others, and may
        drop the flag."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that engines can be built for ahead of time."""
        members = getattr(getattr(self.module, "ComputeCapability", None), "__members__", {})
        return tuple(sorted((n.lower() for n in members if n.startswith("SM")), key=lambda n: int(n[2:])))

    def compute_of(self, compute: Sequence[str]) -> tuple[str, ...]:
        """For what engines are built where these compute capabilities are asked for; none leaves it to the flavour.
        Raises InputError."""
        if self.name in (FULL, TORCH):
            if compute:
                raise InputError(
                    f"target {self.name}",
                    got=f"@{','.join(compute)}",
                    expected="no compute capability: TensorRT builds for the GPU that it runs on",
                    fix="Leave @… out and build on that GPU, or install TensorRT-RTX: pip install 'foveate[tensorrt]'",
                )
            return (compute_capability() or ANY,)
        known = self.capabilities()
        for name in compute:
            if name not in known:
                fix = f"Take one of them, e.g. --target tensorrt@{known[-1]}."
                if name == "sm90":
                    fix = "For an H100 or H200 build for cpu, or with full TensorRT (pip install tensorrt) on that GPU."
                raise InputError(
                    f"compute capability {name}",
                    got=f"TensorRT-RTX {self.version}, which does not support it",
                    expected=f"one of {', '.join(known)}",
                    fix=fix,
                )
        return tuple(sorted(set(compute), key=lambda n: int(n[2:]))) or (ANY,)

    def configure(self, config: Any, compute: str) -> None:
        """Has a builder's config build for that compute capability, and keep float32 what it is: the builder's default,
        TF32, has 10 bits of fraction, no more than float16."""
        if (tf32 := getattr(self.module.BuilderFlag, "TF32", None)) is not None:
            config.clear_flag(tf32)
        if compute != ANY and not self.is_full:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self.module.ComputeCapability, compute.upper()), 0)


def find_flavour(compute: Sequence[str] = ()) -> Flavour:
    """Full TensorRT where it is installed beside a GPU, else TensorRT-RTX. Compute capabilities, that only RTX can
    build for, ask for that one first. Raises MissingExtraError, EngineError."""
    order = [RTX, FULL] if compute or not compute_capability() else [FULL, RTX]
    for name in order:
        if importlib.util.find_spec(name) is not None:
            return open_flavour(name)
    raise MissingExtraError(RTX, "tensorrt", "building for target tensorrt")


@functools.cache
def open_flavour(name: str) -> Flavour:
    """Raises EngineError where it does not import, or is too old."""
    found = flavour.open_flavour(name)
    return Flavour(found.name, found.version, found.module)


def find_torch() -> Flavour:
    """Torch-TensorRT, which builds by the full TensorRT that it brings. Raises MissingExtraError, EngineError."""
    if importlib.util.find_spec(TORCH) is None:
        raise MissingExtraError(TORCH, "torch-tensorrt", "building for target torch_tensorrt")
    return open_flavour(TORCH)
