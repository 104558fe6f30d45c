"""Optimization profiles: between which shapes an engine runs, and at which it shall be fastest.

A *range* is (least, opt, most) of a symbolic dim of the program's inputs: batch, height, width. What shapes these give
the tensors inside, where parts of the program meet, is not inferred: the program is run at the least, the opt and the
most resolution and asked, so that all its engines agree. The batch need not be run at its most, for all dims grow by
the same amount with each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.errors import InputError, ProgramError, did_you_mean, told
from ...runtime.geometry import count_cells
from ...runtime.manifest import GridTensor, LocalSegment, Manifest, TensorSpec
from .borders import Borders

Shape = tuple[int, ...]
Range = tuple[int, int, int]  # least, opt, most
Profile = dict[str, tuple[Shape, Shape, Shape]]  # by input: its shape at the least, the opt and the most

MOST_BATCH = 16
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
    """Of all tensors that cross a border between engines, at the least, the opt and the most."""

    at: tuple[dict[str, Shape], dict[str, Shape], dict[str, Shape]]

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

    def windows(self, segment: LocalSegment) -> Profile:
        """Of a local segment, which runs on windows: from one cell with its halo, or the least image, to the largest
        image. The opt is a quarter of the sample's height and width, with the halo."""
        cells = [_cells(segment, shapes) for shapes in self.at]
        halo = [low + high for low, high in zip(segment.halo_low, segment.halo_high, strict=True)]
        small = [min(1 + more, whole) for more, whole in zip(halo, cells[0], strict=True)]
        usual = [max(s, min(-(-w // 4) + m, w)) for s, m, w in zip(small, halo, cells[1], strict=True)]
        found: Profile = {}
        for tensor in segment.inputs:
            least, opt, most = (shapes[tensor.name] for shapes in self.at)
            found[tensor.name] = _window(tensor, least, small), _window(tensor, opt, usual), most
        return found


def _cells(segment: LocalSegment, shapes: Mapping[str, Shape]) -> tuple[int, int]:
    tensor = (*segment.outputs, *segment.inputs)[0]
    shape = shapes[tensor.name]
    return count_cells((shape[tensor.axes[0]], shape[tensor.axes[1]]), tensor.positions)


def _window(tensor: GridTensor, whole: Shape, cells: Sequence[int]) -> Shape:
    sizes = list(whole)
    for axis, count, positions in zip(tensor.axes, cells, tensor.positions, strict=True):
        sizes[axis] = min(sizes[axis], count * positions)
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
    return Shapes((at[0], at[1], at[2]))


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
