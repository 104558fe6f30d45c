"""choices.json: the values that calibration chose, and what they were chosen from.

{"schema_version": 1, "program_sha256": "…", "data": "scenes.npz", "images": 300,
 "choices": {"mask0.threshold": 0.41},
 "activity": {"mask0": {"mean": 0.25, "quantiles": {"0": 0.11, …, "100": 0.62}, "histogram": [0, 3, …]}},
 "active_fraction": 0.25, "notes": [], "stream": {"threshold": 0.03, "block": 8, "vote": 4},
 "depths": {"2": 120, "4": 180},
 "created_by": "foveate 0.1.0"}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.environment import versions
from ..pipeline.files import write_text
from ..runtime.errors import InputError

SCHEMA_VERSION = 1
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
BINS = 20


@dataclass(frozen=True)
class Activity:
    """Active fractions of one decision over the images: mean, quantiles by percent, and counts of images in `BINS`
    equal bins of [0, 1]."""

    mean: float
    quantiles: dict[str, float]
    histogram: list[int]

    @staticmethod
    def of(fractions: np.ndarray) -> Activity:
        """`fractions`: [N] in [0, 1]."""
        levels = {str(q): round(float(np.percentile(fractions, q)), 6) for q in QUANTILES}
        counts = np.histogram(fractions, bins=BINS, range=(0.0, 1.0))[0]
        return Activity(float(fractions.mean()), levels, counts.tolist())


@dataclass(frozen=True)
class Choices:
    """`choices`: value by the choice's name. `active_fraction`: of the first decision, which the plan is made for.
    `stream`: fields of StreamPolicy, which streams take by default; `depths`: how many of the images took so many
    layers. None says nothing of them."""

    program_sha256: str
    data: str
    images: int
    choices: Mapping[str, float | list[float]]
    activity: dict[str, Activity]
    active_fraction: float | None
    notes: list[str] = field(default_factory=list)
    stream: dict[str, Any] | None = None
    depths: dict[str, int] | None = None
    created_by: str = field(default_factory=lambda: f"foveate {versions().get('foveate')}")
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> Path:
        """Atomically."""
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        return path


def read_choices(path: str | Path) -> Choices:
    """Raises InputError for what is not a choices.json of this schema version."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {data['schema_version']}")
        activity = {name: Activity(**value) for name, value in data.pop("activity").items()}
        return Choices(activity=activity, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"choices {path}",
            got=f"{type(error).__name__}: {error}",
            expected=f"a choices.json of schema version {SCHEMA_VERSION}",
            fix="Write it with `foveate calibrate`.",
        ) from error
