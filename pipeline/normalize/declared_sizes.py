"""Which heights and widths a program says that it takes: multiples of a number, from a least one on."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

import onnx

from ...runtime.errors import ProgramError
from ...runtime.manifest import Pair
from .static_shapes import map_axes, read_dims

SIZES = "foveate.sizes"  # metadata key: {"multiple": 32, "least": 256}
_MULTIPLE = re.compile(r"^(\d+)\*[^*]+$")  # as exporters write a dim that they were told is one: "32*h32"


@dataclass(frozen=True)
class DeclaredSizes:
    """Along (height, width). `least`: None where it is not said."""

    multiple: Pair = (1, 1)
    least: Pair | None = None


def read_declared_sizes(model: onnx.ModelProto) -> DeclaredSizes:
    """From the metadata, and from the dims of inputs. Raises ProgramError for nonsense."""
    entry = next((p.value for p in model.metadata_props if p.key == SIZES), "{}")
    try:
        facts = json.loads(entry)
        declared, least = int(facts.get("multiple", 1)), int(facts.get("least", 0))
        if declared < 1 or least < 0:
            raise ValueError("not positive")
    except (ValueError, TypeError, AttributeError) as error:
        raise ProgramError(
            f"metadata {SIZES}",
            got=f"{entry!r} ({error})",
            expected='two numbers, {"multiple": 32, "least": 256}',
            fix="Export it again with `foveate export`.",
        ) from error
    high = wide = declared
    for value in model.graph.input:
        dims = read_dims(value)
        if axes := map_axes(len(dims), dims):
            high, wide = math.lcm(high, _multiple(dims[axes[0]])), math.lcm(wide, _multiple(dims[axes[1]]))
    smallest = (-(-least // high) * high, -(-least // wide) * wide)
    return DeclaredSizes((high, wide), smallest if least else None)


def _multiple(dim: int | str) -> int:
    found = _MULTIPLE.match(str(dim).replace(" ", ""))
    return max(1, int(found[1])) if found else 1
