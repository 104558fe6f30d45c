"""What a calibration tried, as a file and as a picture."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ..pipeline.files import write_text
from ..pipeline.report_plots import Draw, save_png
from ..runtime.errors import MissingExtraError


def write_curve(folder: Path, name: str, facts: dict[str, Any], draw: Draw) -> None:
    """NAME.json in a folder and, with matplotlib, NAME.png. `draw`: of `report_plots.save_png`."""
    write_text(folder / f"{name}.json", json.dumps(facts, indent=1) + "\n")
    with contextlib.suppress(MissingExtraError):
        save_png(draw, facts, folder / f"{name}.png")
