"""What a program or a checkpoint says of itself beside its graph and tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.errors import MissingExtraError, ProgramError
from ..runtime.manifest import Preprocess

PREPROCESS = "foveate.preprocess"  # metadata keys of the ONNX file
SAMPLE = "foveate.sample"
LABELS = "foveate.labels"
EQUIVARIANCE = "foveate.equivariance"


def read_preprocess(program: str | Path) -> Preprocess | None:
    """None where the program does not say how its images are prepared. Raises ProgramError for nonsense."""
    found = _entry(program, PREPROCESS)
    return None if found is None else preprocess_of(found, f"metadata {PREPROCESS} of {program}")


def read_sample(program: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of each input that the program was exported with; empty where it does not say."""
    found = _entry(program, SAMPLE)
    return {name: tuple(shape) for name, shape in found.items()} if isinstance(found, dict) else {}


def read_labels(program: str | Path) -> tuple[str, ...]:
    """The names of the classes; empty where the program does not say."""
    found = _entry(program, LABELS)
    return tuple(map(str, found)) if isinstance(found, list) else ()


def read_equivariance(program: str | Path) -> list[dict[str, Any]]:
    """What the program says of its softly equivariant tensors (`export.softness.SoftTensor.facts`); empty for none."""
    return [dict(entry) for entry in _entry(program, EQUIVARIANCE) or []]


def preprocess_of(facts: Mapping[str, Any], what: str) -> Preprocess:
    """From the fields of `Preprocess` as JSON holds them. Raises ProgramError that names `what`."""
    try:
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in facts.items()}
        return Preprocess(**values)
    except (TypeError, AttributeError) as error:
        raise ProgramError(
            what,
            got=f"{error}",
            expected="the fields of foveate.runtime.manifest.Preprocess as JSON",
            fix="Export it again with `foveate export`.",
        ) from error


def _entry(program: str | Path, key: str) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export", "reading a program") from error
    try:
        model = onnx.load(program, load_external_data=False)
    except Exception as error:  # protobuf's errors have no root that onnx exports
        raise ProgramError(
            f"program {program}",
            got=f"{type(error).__name__}: {error}",
            expected="an ONNX file",
            fix="Check the path, or export it again.",
        ) from error
    entries = {entry.key: entry.value for entry in model.metadata_props}
    try:
        return json.loads(entries[key]) if key in entries else None
    except ValueError as error:
        raise ProgramError(
            f"metadata {key} of {program}",
            got=f"{error}",
            expected="JSON",
            fix="Export it again with `foveate export`.",
        ) from error
