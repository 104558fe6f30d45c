"""What a program says of itself beside its graph, as metadata of the ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..runtime.errors import MissingExtraError, ProgramError
from ..runtime.manifest import Preprocess

PREPROCESS = "foveate.preprocess"


def read_preprocess(program: str | Path) -> Preprocess | None:
    """None where the program does not say how its images are prepared. Raises ProgramError for nonsense."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export", "reading a program") from error
    for entry in onnx.load(program, load_external_data=False).metadata_props:
        if entry.key == PREPROCESS:
            return _decode(entry.value, Path(program))
    return None


def _decode(text: str, program: Path) -> Preprocess:
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()
        }
        return Preprocess(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ProgramError(
            f"metadata {PREPROCESS} of {program}",
            got=f"{error}",
            expected="the fields of foveate.runtime.manifest.Preprocess as JSON",
            fix="Export the program again with `foveate export`.",
        ) from error
