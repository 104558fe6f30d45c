"""Crops: whether the whole program may run on a part of its image, and the grid that such parts are cut on.

Nothing is asked of its ops, which may be global: only that every output is a map whose size follows the image's.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ..runtime.manifest import CropPlan, GridTensor
from .analyze import Analysis
from .symbols import fit_shape

_LEAST = 16  # pixels of a cell's side at least, so that a video is cut into few distinct sizes

Shares = tuple[Fraction, Fraction]  # of the image's height and width


def plan_crops(analysis: Analysis) -> tuple[CropPlan | None, str]:
    """The plan, or why there is none."""
    program, probes = analysis.program, analysis.probes
    if len(program.inputs) != 1:
        return None, f"it has {len(program.inputs)} inputs, and crops are of one image"
    image = program.inputs[0]
    if probes.sample.dtypes[image] != "float32":
        return None, f"its input is {probes.sample.dtypes[image]}, and crops are of float32 images"
    if _shares(analysis, image) is None:
        return None, probes.fixed[0] if probes.fixed else "its input has no free height and width"
    maps = {name: shares for name in analysis.axes if (shares := _shares(analysis, name))}
    for name in program.outputs:
        if name not in maps:
            shape = ", ".join(str(dim) for dim in fit_shape(name, probes))
            return None, f"output {name!r} [{shape}] is no map at a fixed share of the image's size"
    cell = [_cell([shares[i] for shares in maps.values()], probes.multiple[i]) for i in (0, 1)]
    grid = {
        name: GridTensor(
            name, (int(maps[name][0] * cell[0]), int(maps[name][1] * cell[1])), analysis.axes[name]
        )
        for name in (image, *program.outputs)
    }
    return CropPlan(grid[image], tuple(grid[name] for name in program.outputs)), ""


def _shares(analysis: Analysis, name: str) -> Shares | None:
    """The height and the width of a map as shares of the image's, if they are the same at every resolution."""
    runs, axes = analysis.probes.whole, analysis.axes.get(name)
    image = analysis.program.inputs[0]
    if axes is None or any(name not in run.shapes for run in runs):
        return None
    found = []
    for axis, own in zip(axes, analysis.axes[image], strict=True):
        sizes = [(run.shapes[name][axis], run.shapes[image][own]) for run in runs]
        shares = {Fraction(size, whole) for size, whole in sizes}
        if len(shares) != 1 or len({whole for _, whole in sizes}) < 2:
            return None
        found.append(shares.pop())
    return found[0], found[1]


def _cell(shares: list[Fraction], multiple: int) -> int:
    """The least common multiple of the strides that maps of these shares have, and of what the program takes, or a
    multiple of it: a crop that begins there has its maps on those of the whole image."""
    stride = math.lcm(multiple, *(share.denominator for share in shares))
    return stride * -(-_LEAST // stride)
