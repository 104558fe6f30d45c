"""The CUDA kernels, on arrays in a GPU's memory: those of Foveate's devices, torch, CuPy and whatever else speaks
DLPack or the CUDA array interface.

Every function queues one launch on `stream` (an integer, a stream of torch or CuPy; the default stream if left out) of
the current device, and returns. What it writes is the caller's, C-contiguous, and given first. All raise InputError for
an array of another shape or dtype, and EngineError where there are no kernels or a launch fails.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import byref
from typing import Any

import numpy as np

from ..device.device import Reach, TileGrid, Tiles
from ..errors import EngineError, InputError
from ..manifest import Pair, Term
from . import library as lib
from .arrays import View, stream_pointer, view

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))


def take_rows(out: Any, source: Any, rows: Any, stream: Any = None) -> None:
    """out[i] = source[rows[i]]; rows int32 [n], all within the source."""
    written, read, which = _same_rows(out, "out", source, "source"), view(source, "source"), _rows(rows)
    if written.shape[0] != which.shape[0]:
        raise _wrong("out", written, f"{which.shape[0]} rows")
    _call("take_rows", written.pointer, read.pointer, which.pointer, which.shape[0], read.row_bytes, stream)


def put_rows(target: Any, source: Any, rows: Any, stream: Any = None) -> None:
    """target[rows[i]] = source[i]; rows int32 [n], none twice, all within the target."""
    written, read, which = _same_rows(target, "target", source, "source"), view(source, "source"), _rows(rows)
    if read.shape[0] != which.shape[0]:
        raise _wrong("source", read, f"{which.shape[0]} rows")
    _call("put_rows", written.pointer, read.pointer, which.pointer, which.shape[0], read.row_bytes, stream)


def repeat(out: Any, source: Any, stream: Any = None) -> None:
    """Every entry of out [n, …] becomes that of the source [1, …]."""
    written, read = _same_rows(out, "out", source, "source"), view(source, "source")
    if read.shape[0] != 1:
        raise _wrong("source", read, "one row")
    _call("repeat", written.pointer, read.pointer, written.shape[0], read.row_bytes, stream)


def support(out: Any, mask: Any, stream: Any = None) -> None:
    """The map out uint8 [N, h, w] of a mask [N, C, h, w]: 1 where any channel is not 0."""
    read = view(mask, "mask")
    if len(read.shape) != 4 or read.dtype.kind not in "biuf":
        raise _wrong("mask", read, "numbers [N, C, h, w]")
    n, c, h, w = read.shape
    written = _map(out, "out", (n, h, w))
    size, floating = read.dtype.itemsize, read.dtype.kind == "f"
    _call("support", written.pointer, read.pointer, size, floating, n, c, h * w, stream)


def tally(out: Any, array: Any, stream: Any = None) -> None:
    """out int32 [N, 2] of an array [N, …] of numbers: of each image, how many are NaN or infinite, and how many are not
    0 (NaN counts as not 0)."""
    read = view(array, "array")
    if not read.shape or read.dtype.kind not in "biuf":
        raise _wrong("array", read, "numbers [N, …]")
    n, size = read.shape[0], read.dtype.itemsize
    written = _exact(out, "out", np.int32, (n, 2))
    _call(
        "tally",
        written.pointer,
        read.pointer,
        size,
        read.dtype.kind == "f",
        n,
        read.row_bytes // size,
        stream,
    )


def reach(out: Any, terms: Sequence[Reach], stream: Any = None) -> None:
    """The map out uint8 [N, h, w] of what terms reach; see Device.reach. `source` may be any array."""
    written = view(out, "out")
    n, h, w = _map(out, "out", written.shape).shape
    facts = []
    for place, reached in enumerate(terms):
        source = view(reached.source, f"source {place}")
        if len(source.shape) != 3 or source.shape[0] != n or source.dtype.itemsize != 1:
            raise _wrong(f"source {place}", source, f"uint8 [{n}, h, w]")
        facts.append((source.pointer, source.shape[1:], reached.term))
    given = _terms_at(tuple(facts))
    _call("reach", written.pointer, lib.Pair(h, w), n, given, len(terms), stream)


def scratch_bytes(batch: int, grid: TileGrid) -> int:
    """Of the memory that `find_tiles` and `energy_mask` work in: 0 before its first use, and left so."""
    return _kernels().fv_cuda_scratch_bytes(batch, byref(_grid(grid)))


def find_tiles(
    tiles: Tiles, scratch: Any, maps: Sequence[tuple[Any, Pair]], batch: int, stream: Any = None
) -> None:
    """Lists in `tiles` those with own cells in which any map (each with its positions a cell) has something dirty."""
    facts = []
    for place, (given, positions) in enumerate(maps):
        found = view(given, f"map {place}")
        if len(found.shape) != 3 or found.shape[0] != batch or found.dtype.itemsize != 1:
            raise _wrong(f"map {place}", found, f"uint8 [{batch}, h, w]")
        facts.append((found.pointer, found.shape[1:], positions))
    given = _maps_at(tuple(facts))
    places, count, work = _tiles_memory(tiles, scratch, batch)
    _call("find_tiles", places, count, work, byref(_grid(tiles.grid)), batch, given, len(maps), stream)


def take_windows(
    out: Any, source: Any, tiles: Tiles, positions: Pair, first: int = 0, stream: Any = None
) -> None:
    """out [n, C, h, w] becomes the windows of n tiles, from number `first` on; see Device.take_windows."""
    read = view(source, "source")
    written = _windows(out, "out", read, tiles, positions)
    tensor = _tensor(read, "source", positions)
    n = written.shape[0]
    _call("take_windows", written.pointer, byref(tensor), byref(_tiles(tiles)), first, n, stream)


def put_windows(
    target: Any, values: Any, tiles: Tiles, positions: Pair, first: int = 0, stream: Any = None
) -> None:
    """Writes the own cells of n tiles, from number `first` on, of their windows [n, C, h, w] into the target [N, C, H,
    W]."""
    written = view(target, "target")
    read = _windows(values, "values", written, tiles, positions)
    tensor = _tensor(written, "target", positions)
    n = read.shape[0]
    _call("put_windows", byref(tensor), read.pointer, byref(_tiles(tiles)), first, n, stream)


def restore_tiles(
    target: Any, reference: Any, tiles: Tiles, positions: Pair, n: int, stream: Any = None
) -> None:
    """The own cells of the first n tiles, from a reference [1, C, H, W] into the target [N, C, H, W]."""
    written, read = view(target, "target"), view(reference, "reference")
    if read.shape != (1, *written.shape[1:]) or read.dtype != written.dtype:
        raise _wrong("reference", read, f"{written.dtype} {[1, *written.shape[1:]]}")
    tensor = _tensor(written, "target", positions)
    _call("restore_tiles", byref(tensor), read.pointer, byref(_tiles(tiles)), n, stream)


def energy_mask(
    keep: Any,
    x: Any,
    weight: Any,
    bias: Any,
    threshold: Any,
    temperature: Any,
    lam: Any,
    gamma: Any,
    patch: int = 1,
    soft: bool = False,
    logits: Any = None,
    energy: Any = None,
    map: Any = None,
    tiles: tuple[Tiles, Pair, Any] | None = None,
    stream: Any = None,
) -> None:
    """ai.foveate::EnergyMask. keep [B, 1, H, W] and x [B, C, H, W] float32 or float16; all others float32: weight
    [1, C·patch², 1, 1], bias [1], scalars, logits and energy [B, 1, ⌈H/patch⌉, ⌈W/patch⌉]. Beside these, `map` uint8
    [B, H, W], where keep is not 0, and `tiles` with positions a cell and scratch: as `find_tiles` of that map."""
    read = view(x, "x")
    if len(read.shape) != 4 or read.dtype not in _FLOATS:
        raise _wrong("x", read, "float32 or float16 [B, C, H, W]")
    b, c, h, w = read.shape
    tokens = (b, 1, -(-h // patch), -(-w // patch))
    op = lib.EnergyMask(x=read.pointer, batch=b, channels=c, size=(h, w), patch=patch, soft=soft)
    op.element_bytes = read.dtype.itemsize
    op.keep = _exact(keep, "keep", read.dtype, (b, 1, h, w)).pointer
    op.weight = _exact(weight, "weight", np.float32, (1, c * patch**2, 1, 1)).pointer
    op.bias = _exact(bias, "bias", np.float32, (1,)).pointer
    named = {"threshold": threshold, "temperature": temperature, "lam": lam, "gamma": gamma}
    for name, scalar in named.items():
        setattr(op, name, _exact(scalar, name, np.float32, ()).pointer)
    for name, array in (("logits", logits), ("energy", energy)):
        if array is not None:
            setattr(op, name, _exact(array, name, np.float32, tokens).pointer)
    if map is not None:
        op.map = _map(map, "map", (b, h, w)).pointer
    if tiles is not None:
        found, positions, scratch = tiles
        op.grid, op.positions = lib.GRID(_grid(found.grid)), positions
        op.places, op.count, op.scratch = _tiles_memory(found, scratch, b)
    _call("energy_mask", byref(op), stream)


def deformable_sample(
    out: Any, value: Any, sizes: Any, locations: Any, weights: Any, stream: Any = None
) -> None:
    """ai.foveate::DeformableSample: value [B, S, heads, C], weights [B, Q, heads, L, P] and out [B, Q, heads · C]
    float32 or float16; sizes int64 [L, 2], S = Σ height · width; locations float32 [B, Q, heads, L, P, 2]."""
    read, shares = view(value, "value"), view(weights, "weights")
    if len(read.shape) != 4 or read.dtype not in _FLOATS:
        raise _wrong("value", read, "float32 or float16 [B, S, heads, C]")
    b, s, heads, c = read.shape
    good = len(shares.shape) == 5 and (shares.shape[0], shares.shape[2]) == (b, heads)
    if not good or shares.dtype != read.dtype:
        raise _wrong("weights", shares, f"{read.dtype} [{b}, Q, {heads}, L, P]")
    q, levels, points = shares.shape[1], shares.shape[3], shares.shape[4]
    op = lib.Deformable(value=read.pointer, weights=shares.pointer, element_bytes=read.dtype.itemsize)
    op.batch, op.tokens, op.heads, op.channels = b, s, heads, c
    op.queries, op.levels, op.points = q, levels, points
    op.sizes = _exact(sizes, "sizes", np.int64, (levels, 2)).pointer
    op.locations = _exact(locations, "locations", np.float32, (*shares.shape, 2)).pointer
    op.read = _exact(out, "out", read.dtype, (b, q, heads * c)).pointer
    _call("deformable_sample", byref(op), stream)


def _kernels() -> Any:
    found = lib.library()
    if found is None:
        raise EngineError(
            "CUDA kernels",
            got=lib.why_missing(),
            expected="Foveate installed with them",
            fix="Install the CUDA toolkit (nvcc), then: pip install --force-reinstall foveate",
        )
    return found


def _call(name: str, *arguments: Any) -> None:
    """The last argument is the stream."""
    kernels = _kernels()
    error = getattr(kernels, f"fv_cuda_{name}")(*arguments[:-1], stream_pointer(arguments[-1]))
    if error:
        raise EngineError(
            f"CUDA kernel {name}",
            got=kernels.fv_cuda_error(error).decode(),
            expected="a launch on this GPU",
            fix="`foveate doctor` shows this machine's GPU; sizes beyond 2³¹ are not taken.",
        )


def _wrong(what: str, got: View, expected: str) -> InputError:
    return InputError(
        what,
        got=f"{got.dtype} {list(got.shape)}",
        expected=expected,
        fix="Pass it in that shape and dtype, on the GPU.",
    )


def _exact(array: Any, what: str, dtype: Any, shape: Sequence[int]) -> View:
    found = view(array, what)
    good = found.dtype == dtype and found.shape == tuple(shape)
    if not good:
        raise _wrong(what, found, f"{np.dtype(dtype)} {list(shape)}")
    return found


def _map(array: Any, what: str, shape: Sequence[int]) -> View:
    found = view(array, what)
    good = found.dtype.itemsize == 1 and found.shape == tuple(shape) and len(shape) == 3
    if not good:
        raise _wrong(what, found, f"uint8 {list(shape) if len(shape) == 3 else '[N, h, w]'}")
    return found


def _rows(rows: Any) -> View:
    found = view(rows, "rows")
    if found.dtype != np.int32 or len(found.shape) != 1:
        raise _wrong("rows", found, "int32 [n]")
    return found


def _same_rows(array: Any, what: str, other: Any, name: str) -> View:
    """`array`, whose rows are of one shape and dtype with those of `other`."""
    found, like = view(array, what), view(other, name)
    good = bool(found.shape) and found.shape[1:] == like.shape[1:] and found.dtype == like.dtype
    if not good:
        raise _wrong(what, found, f"{like.dtype} {['n', *like.shape[1:]]}")
    return found


# A session calls kernels with few grids, arrays and terms, again and again: what C reads of them is made once.
_once = functools.lru_cache(maxsize=4096)


@_once
def _grid(grid: TileGrid) -> lib.TileGrid:
    return lib.TileGrid(grid.cells, grid.tile, grid.halo_low, grid.halo_high)


@_once
def _window_sizes(grid: TileGrid, positions: Pair) -> Pair:
    (height, width), (rows, columns) = grid.window, positions
    return height * rows, width * columns


@_once
def _tiles_at(places: int, count: int, grid: TileGrid) -> lib.Tiles:
    return lib.Tiles(places, count, _grid(grid))


@_once
def _tensor_at(pointer: int, shape: tuple[int, int, int, int], positions: Pair, size: int) -> lib.Tensor:
    n, c, h, w = shape
    return lib.Tensor(pointer, n, c, (h, w), positions, size)


@_once
def _terms_at(terms: tuple[tuple[int, Pair, Term], ...]) -> Any:
    given = [lib.Reach(pointer, size, t.num, t.den, t.low, t.high) for pointer, size, t in terms]
    return (lib.Reach * len(given))(*given)


@_once
def _maps_at(maps: tuple[tuple[int, Pair, Pair], ...]) -> Any:
    return (lib.TileMap * len(maps))(*[lib.TileMap(*map) for map in maps])


def _tiles(tiles: Tiles) -> lib.Tiles:
    places, count = view(tiles.places, "places"), view(tiles.count, "count")
    return _tiles_at(places.pointer, count.pointer, tiles.grid)


def _tiles_memory(tiles: Tiles, scratch: Any, batch: int) -> tuple[int, int, int]:
    """Of places, count and scratch, large enough."""
    capacity = batch * tiles.grid.count
    places, work = view(tiles.places, "places"), view(scratch, "scratch")
    good = places.dtype == np.int32 and places.shape[1:] == (3,) and places.shape[0] >= capacity
    if not good:
        raise _wrong("places", places, f"int32 [{capacity}, 3] or more")
    need = scratch_bytes(batch, tiles.grid)
    had = work.row_bytes * work.shape[0] if work.shape else 0
    if had < need:
        raise _wrong("scratch", work, f"{need} bytes or more")
    return places.pointer, _exact(tiles.count, "count", np.int32, (1,)).pointer, work.pointer


def _tensor(found: View, what: str, positions: Pair) -> lib.Tensor:
    if len(found.shape) != 4:
        raise _wrong(what, found, "[N, C, H, W]")
    return _tensor_at(found.pointer, found.shape, positions, found.dtype.itemsize)


def _windows(array: Any, what: str, of: View, tiles: Tiles, positions: Pair) -> View:
    """Windows of a tensor."""
    found, sizes = view(array, what), _window_sizes(tiles.grid, positions)
    if found.dtype != of.dtype or len(found.shape) != 4 or found.shape[1:] != (*of.shape[1:2], *sizes):
        raise _wrong(what, found, f"{of.dtype} {['n', *of.shape[1:2], *sizes]}")
    return found
