"""ONNX file -> serialized engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ...runtime.errors import EngineError, ProgramError
from ...runtime.tensorrt.flavour import logger, said
from .flavour import Flavour
from .profiles import Profile, Profiles
from .timing_cache import TimingCache


@dataclass(frozen=True)
class Tensor:
    """An engine's input or output. −1: a dim of the profile, or one that only the data tell."""

    name: str
    dtype: str  # TensorRT's name: "FLOAT", "HALF", "INT64"
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """Of the network, before the builder fuses it. `dtypes` of its outputs."""

    name: str
    kind: str
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """A serialized engine and what is known of it, for without a GPU it cannot be asked."""

    plan: bytes
    seconds: float
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]


def build_plan(
    onnx_file: Path,
    profiles: Profiles,
    compute: str,
    flavour: Flavour,
    timing: TimingCache | None = None,
    name: str = "",
) -> Built:
    """Builds the engine of an ONNX file for a compute capability of `Flavour.compute_of`. `timing`: for full TensorRT,
    which times kernels. Raises ProgramError that names the op that TensorRT does not know, EngineError with the
    builder's log."""
    trt, start = flavour.module, perf_counter()
    name = name or onnx_file.name
    with flavour.logged() as log:
        builder = trt.Builder(logger(flavour))
        network = flavour.network(builder)
        _parse(trt.OnnxParser(network, logger(flavour)), onnx_file, name, flavour, log)
        config = builder.create_builder_config()
        flavour.configure(config, compute)
        for profile in profiles:
            _add_profile(builder, network, config, profile, name)
        if timing is not None:
            timing.give(config)
        plan = _serialize(builder, network, config, flavour.given_memory)
        if plan is None:
            raise EngineError(
                f"building the engine of {name}",
                got=said(log),
                expected=f"an engine of {flavour.name} {flavour.version} for {compute}",
                fix="Narrow the profile with --profile, take another precision, or build for cpu.",
            )
        if timing is not None:
            timing.keep(config)
        inputs = tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs))
        outputs = tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs))
        layers = tuple(_layer(network.get_layer(i)) for i in range(network.num_layers))
        seconds, warnings = perf_counter() - start, tuple(dict.fromkeys(log))
        return Built(bytes(plan), seconds, inputs, outputs, layers, warnings)


def _serialize(builder: Any, network: Any, config: Any, given_memory: Any) -> Any:
    """The plan, or None. With that flag, if there is one and it builds so."""
    if given_memory is not None:
        config.set_flag(given_memory)
        if (plan := builder.build_serialized_network(network, config)) is not None:
            return plan
        config.clear_flag(given_memory)
    return builder.build_serialized_network(network, config)


def _parse(parser: Any, onnx_file: Path, name: str, flavour: Flavour, log: Sequence[str]) -> None:
    if parser.parse_from_file(str(onnx_file)):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    for error in errors:
        op, node = _read(error, "node_operator"), _read(error, "node_name")
        if op:
            raise ProgramError(
                f"{name}, node {node or '?'} ({op})",
                got=re.sub(r"\s+", " ", _read(error, "desc")),
                expected=f"an op that {flavour.name} {flavour.version} builds",
                fix="Export the program without it, or build for cpu.",
            )
    raise EngineError(
        f"reading {name}",
        got=" / ".join(_read(error, "desc") for error in errors) or said(log),
        expected=f"a file that the ONNX parser of {flavour.name} {flavour.version} reads",
        fix="Export the program with opset 22 or lower, or build for cpu.",
    )


def _read(error: Any, what: str) -> str:
    """Of a parser's error; "" where this version does not say."""
    return str(getattr(error, what)() or "") if hasattr(error, what) else ""


def _add_profile(builder: Any, network: Any, config: Any, profile: Profile, name: str) -> None:
    """Only inputs of open dims have one."""
    made, added = builder.create_optimization_profile(), False
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if -1 in tuple(tensor.shape):
            made.set_shape(tensor.name, *profile[tensor.name])
            added = True
    if added and config.add_optimization_profile(made) < 0:
        shown = ", ".join(f"{k} {'…'.join(str(list(s)) for s in v)}" for k, v in profile.items())
        raise EngineError(
            f"the profile of {name}",
            got=shown,
            expected="shapes that TensorRT takes, rising",
            fix="Pass another one with --profile.",
        )


def _tensor(tensor: Any) -> Tensor:
    return Tensor(tensor.name, tensor.dtype.name, tuple(tensor.shape))


def _layer(layer: Any) -> Layer:
    made = [layer.get_output(i) for i in range(layer.num_outputs)]
    return Layer(layer.name, layer.type.name, tuple(t.dtype.name for t in made if t is not None))
