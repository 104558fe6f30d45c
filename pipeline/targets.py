"""Targets of a build: what each backend makes of a segment's ONNX file. Chosen by the type of the engine's config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..runtime.engine import Config, NullConfig, OrtConfig, by_config
from ..runtime.errors import EngineError, InputError, MissingExtraError, did_you_mean

TARGETS: dict[str, Config] = {"cpu": OrtConfig(), "null": NullConfig()}

Builder = Callable[[Path], None]
_BUILDERS: dict[type, Builder] = {}


builds = by_config(_BUILDERS, "builders for")  # decorates what makes or checks the engine of one file


def target_config(target: str) -> Config:
    """The engine config of a target's name. Raises InputError that suggests the nearest."""
    if target not in TARGETS:
        raise InputError(
            "target",
            got=repr(target),
            expected=f"one of {', '.join(TARGETS)}",
            fix=did_you_mean(target, TARGETS, "Pass --target cpu."),
        )
    return TARGETS[target]


def build_engine(path: Path, config: Config) -> None:
    """Makes the engine of one ONNX file. Raises EngineError where its backend refuses it."""
    _BUILDERS[type(config)](path)


@builds(OrtConfig)
def load_in_onnxruntime(path: Path) -> None:
    """onnxruntime compiles on load: the file is its own engine, and only has to load."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "building for target cpu") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common root of their own
        raise EngineError(
            f"segment {path.name}",
            got=str(error).strip().splitlines()[0],
            expected="a model that onnxruntime loads",
            fix="The program has an op that this onnxruntime does not know: update it, or lower the opset.",
        ) from error


@builds(NullConfig)
def nothing(path: Path) -> None:
    """The null backend computes nothing."""
