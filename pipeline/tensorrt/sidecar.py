"""What is written beside an engine, for without a GPU it cannot be opened and asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from ...runtime.decode import decode
from .engine_build import Built, Layer, Tensor
from .flavour import Flavour
from .profiles import Profiles


@dataclass(frozen=True)
class Sidecar:
    """`profiles`: of each, by input its least, opt and most shape. `layers` of the network, in order."""

    name: str  # of the ONNX file
    flavour: str
    version: str
    compute: str
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: tuple[dict[str, tuple[tuple[int, ...], ...]], ...]
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]
    seconds: float  # of the build
    bytes: int  # of the plan
    sha256: str  # of the plan
    plugins: tuple[str, ...] = ()  # that it needs when it is opened, such as "EnergyMask 1"


def describe(
    name: str,
    built: Built,
    flavour: Flavour,
    compute: str,
    precision: str,
    profiles: Profiles,
    plugins: tuple[str, ...] = (),
) -> Sidecar:
    return Sidecar(
        name,
        flavour.name,
        flavour.version,
        compute,
        precision,
        built.inputs,
        built.outputs,
        tuple({name: tuple(shapes) for name, shapes in profile.items()} for profile in profiles),
        built.layers,
        built.warnings,
        round(built.seconds, 3),
        len(built.plan),
        hashlib.sha256(built.plan).hexdigest(),
        plugins,
    )


def read_sidecar(facts: Any) -> Sidecar:
    """From parsed JSON. Raises ValueError, KeyError, TypeError where it is none."""
    return decode(Sidecar, facts)
