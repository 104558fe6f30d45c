"""Why a stage runs: what went into it now, against what went in when its result was made.

The record lies in the bundle's manifest (`Manifest.stages`) as "stage.input" -> hash, so it moves and vanishes with
the result that it speaks of.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.bundle import hash_file
from .data import IMAGE_SUFFIXES
from .environment import versions

Inputs = Mapping[str, Any]  # name -> a hash, or any plain value

ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = ("export", "runtime", "pipeline", "calibration")


class Ledger:
    """What each stage ran with. `why` compares, `record` remembers."""

    def __init__(self, recorded: Mapping[str, str] | None = None, force: bool = False):
        self.entries = dict(recorded or {})
        self._force = force
        self._would_run: list[str] = []

    def why(self, stage: str, inputs: Inputs, present: bool, after: tuple[str, ...] = ()) -> str | None:
        """Why the stage must run, in words; None if its result still holds.

        `present`: whether its result exists. `after`: stages whose result it reads, if that is not known yet."""
        if self._force:
            return "forced"
        for earlier in after:
            if earlier in self._would_run:
                return f"after {earlier}"
        known = {
            key.partition(".")[2]: value for key, value in self.entries.items() if key.startswith(f"{stage}.")
        }
        if not known or not present:
            return "no result yet"
        now = _digests(inputs)
        changed = [name for name in {**known, **now} if known.get(name) != now.get(name)]
        return f"changed: {', '.join(changed)}" if changed else None

    def would_run(self, stage: str) -> None:
        self._would_run.append(stage)

    def record(self, stage: str, inputs: Inputs) -> None:
        kept = {key: value for key, value in self.entries.items() if not key.startswith(f"{stage}.")}
        self.entries = {**kept, **{f"{stage}.{name}": value for name, value in _digests(inputs).items()}}


def _digests(inputs: Inputs) -> dict[str, str]:
    return {name: digest(value) for name, value in inputs.items()}


def digest(value: Any) -> str:
    """A short hash of any plain value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path | None) -> str | None:
    return hash_file(path) if path is not None and path.is_file() else None


def data_digest(spec: str | Path | None) -> str | None:
    """Of a file: its contents. Of a folder: its images' names, sizes and times. Of module:function: its name."""
    if spec is None:
        return None
    path = Path(spec)
    if path.is_file():
        return hash_file(path)
    images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else []
    return digest(
        [str(spec), [[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in images]]
    )


@functools.cache
def code_digest() -> str:
    """Foveate's version and source, so that a changed compiler does not pass for an unchanged result."""
    files = [p for folder in CODE_FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))]
    return digest([versions().get("foveate"), *((p.name, hash_file(p)) for p in files)])
