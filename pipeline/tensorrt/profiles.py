"""Optimization profiles: between which shapes an engine runs, and at which it shall be fastest.

A *range* is (least, opt, most) of a symbolic dim of the program's inputs: batch, height, width. What shapes these give
the tensors inside, where parts of the program meet, is not inferred: the program is run at the least, the opt and the
most resolution and asked, so that all its engines agree. The batch need not be run at its most, for all dims grow by
the same amount with each image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.device.tiles import SIDES
from ...runtime.errors import InputError, ProgramError, did_you_mean, told
from ...runtime.geometry import count_cells
from ...runtime.manifest import GridTensor, LocalSegment, Manifest, TensorSpec
from .borders import Borders

Shape = tuple[int, ...]
Range = tuple[int, int, int]  # least, opt, most
Profile = dict[str, tuple[Shape, Shape, Shape]]  # by input: its shape at the least, the opt and the most
Profiles = tuple[Profile, ...]  # of an engine; the first takes whole images

MOST_BATCH = 16
MOST_WINDOWS = 1024  # of a call: more of them would not make it cheaper
_GROWTH = 2  # of the sample's height and width


def choose_ranges(manifest: Manifest, asked: Mapping[str, Range]) -> dict[str, Range]:
    """Of every symbolic dim of the program's inputs: as asked for, else around the sample. A batch goes from 1 to 16,
    height and width from the least that the program takes to twice the sample's. Raises InputError."""
    sample = _sample_sizes(manifest)
    for name in asked:
        if name not in sample:
            raise InputError(
                f"profile of {name!r}",
                got="no such dim",
                expected=f"one of {', '.join(sample) or 'none: all sizes are fixed'}",
                fix=did_you_mean(name, sample, "`foveate inspect` shows the dims of the inputs."),
            )
    return {
        name: _checked(name, asked[name], *_limits(name, manifest))
        if name in asked
        else _usual(name, size, manifest)
        for name, size in sample.items()
    }


def _sample_sizes(manifest: Manifest) -> dict[str, int]:
    """In the order of the inputs' dims."""
    return {
        dim: manifest.sample[spec.name][axis]
        for spec in manifest.inputs
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }


def _limits(name: str, manifest: Manifest) -> tuple[int, int]:
    """The least size of a dim, and what it has to be a multiple of."""
    axis = 0 if "height" in name else 1 if "width" in name else None
    if axis is None:
        return 1, 1
    multiple = manifest.multiple[axis]
    return -(-manifest.min_size[axis] // multiple) * multiple, multiple


def _usual(name: str, size: int, manifest: Manifest) -> Range:
    least, _ = _limits(name, manifest)
    if name.endswith("batch"):
        return 1, size, max(MOST_BATCH, size)
    return min(least, size), size, _GROWTH * size


def _checked(name: str, sizes: Range, least: int, multiple: int) -> Range:
    rising = least <= sizes[0] <= sizes[1] <= sizes[2]
    if not rising or any(size % multiple for size in sizes):
        of = f", all multiples of {multiple}" if multiple > 1 else ""
        raise InputError(
            f"profile of {name!r}",
            got=":".join(map(str, sizes)),
            expected=f"least:opt:most, rising from {least} on{of}",
            fix=f"Pass e.g. --profile {name}={':'.join(str(max(least, multiple) * n) for n in (1, 2, 4))}",
        )
    return sizes


@dataclass(frozen=True)
class Shapes:
    """Of all tensors that cross a border between engines, at the least, the opt and the most. `batched`: the program
    takes any number of images, which is the first dim of maps."""

    at: tuple[dict[str, Shape], dict[str, Shape], dict[str, Shape]]
    batched: bool = True

    def profile(self, inputs: Sequence[str]) -> Profile:
        """Raises ProgramError for a tensor that gets smaller as its image grows."""
        found: Profile = {}
        for name in inputs:
            least, opt, most = (shapes[name] for shapes in self.at)
            if not all(a <= b <= c for a, b, c in zip(least, opt, most, strict=True)):
                raise ProgramError(
                    f"the shapes of {name!r}",
                    got=f"{list(least)}, {list(opt)}, {list(most)} for rising sizes of the input",
                    expected="sizes that rise as well",
                    fix="Fix the size, e.g. --profile height=512,width=512, or build for cpu.",
                )
            found[name] = least, opt, most
        return found

    def windows(self, segment: LocalSegment) -> Profiles:
        """Of a local segment, which runs on whole maps and on windows. The first profile takes both, from one image and
        one cell with its halo on. The second takes the many windows of one call: as large as tiles are, of a quarter of
        the map at most, and so many that together they hold no more than the first's largest maps, for TensorRT
        reserves what the most of a profile needs. It is fastest for as many as hold a sample's maps."""
        cells = [_cells(segment, shapes) for shapes in self.at]
        halo = [low + high for low, high in zip(segment.halo_low, segment.halo_high, strict=True)]
        small = [min(1 + more, whole) for more, whole in zip(halo, cells[0], strict=True)]
        usual, large = (_tile_with(halo, whole) for whole in cells[1:])
        images = [shapes[segment.inputs[0].name][0] for shapes in self.at] if self.batched else [1, 1, 1]
        most = min(images[2] * math.prod(cells[2]) // math.prod(large), max(MOST_WINDOWS, images[2]))
        opt = min(images[1] * math.prod(cells[1]) // math.prod(usual), most)
        whole = self._of_windows(segment, (1, small), (images[1], cells[1]), (images[2], cells[2]))
        if not self.batched or most <= images[2]:
            return (whole,)
        return whole, self._of_windows(segment, (1, small), (opt, usual), (most, large))

    def _of_windows(self, segment: LocalSegment, *sizes: tuple[int, Sequence[int]]) -> Profile:
        """For so many windows of so many cells, at the least, the opt and the most."""
        found: Profile = {}
        for tensor in segment.inputs:
            pairs = zip((shapes[tensor.name] for shapes in self.at), sizes, strict=True)
            least, opt, most = (_window(tensor, whole, *size, self.batched) for whole, size in pairs)
            found[tensor.name] = least, opt, most
        return found


def _tile_with(halo: Sequence[int], cells: Sequence[int]) -> list[int]:
    """Cells of a window whose tile is the largest, or a quarter of the map."""
    return [
        min(min(-(-whole // 4), SIDES[-1]) + more, whole) for whole, more in zip(cells, halo, strict=True)
    ]


def _cells(segment: LocalSegment, shapes: Mapping[str, Shape]) -> tuple[int, int]:
    tensor = (*segment.outputs, *segment.inputs)[0]
    shape = shapes[tensor.name]
    return count_cells((shape[tensor.axes[0]], shape[tensor.axes[1]]), tensor.positions)


def _window(tensor: GridTensor, whole: Shape, count: int, cells: Sequence[int], batched: bool) -> Shape:
    sizes = [count, *whole[1:]] if batched else list(whole)
    for axis, n, positions in zip(tensor.axes, cells, tensor.positions, strict=True):
        sizes[axis] = min(sizes[axis], n * positions)
    return tuple(sizes)


def measure_shapes(folder: Path, manifest: Manifest, ranges: Mapping[str, Range]) -> Shapes:
    """Runs the program of the bundle `folder`. Raises ProgramError where it does not run at one of the sizes."""
    batches = [name for name in ranges if name.endswith("batch")]
    with Borders(folder, manifest) as borders:
        at = []
        for place in range(3):
            sizes = {name: sizes[place] for name, sizes in ranges.items()}
            one = _run_at(borders, manifest.inputs, sizes | dict.fromkeys(batches, 1))
            if batches:
                two = _run_at(borders, manifest.inputs, sizes | dict.fromkeys(batches, 2))
                one = {name: _grown(shape, two[name], sizes[batches[0]]) for name, shape in one.items()}
            at.append(one)
    return Shapes((at[0], at[1], at[2]), bool(batches))


def _grown(one: Shape, two: Shape, batch: int) -> Shape:
    return tuple(a + (batch - 1) * (b - a) for a, b in zip(one, two, strict=True))


def _run_at(borders: Borders, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, Shape]:
    feeds = {
        spec.name: np.zeros([sizes[d] if isinstance(d, str) else d for d in spec.shape], spec.dtype)
        for spec in inputs
    }
    try:
        return {name: array.shape for name, array in borders(feeds).items()}
    except Exception as error:  # onnxruntime's exceptions have no common root of their own
        at = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ProgramError(
            f"the program's shapes at {at}",
            got=told(error),
            expected="a program that runs at all sizes of the profile",
            fix="Narrow the profile, e.g. --profile height=224:512:1024,width=224:512:1024",
        ) from error
