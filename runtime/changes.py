"""Where an input of a stream changed since it was last propagated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .native.handles import PoolHandle
from .native.library import library
from .policy import StreamPolicy


@dataclass(frozen=True)
class Seen:
    """What `Changes.look` found. dirty: bool [height, width], to compute; moved: share of the positions that changed;
    drift: mean |input − last propagated| over the others, 0 unless the policy asks; finite: whether the input is: the
    rest says nothing otherwise. `blocks` and `waits` are those of `Changes`, once this is accepted."""

    dirty: np.ndarray
    moved: float
    drift: float
    finite: bool
    blocks: np.ndarray | None = None
    waits: np.ndarray | None = None


class Changes:
    """Of one input, float32 [1, channels, height, width].

    Compared is with the value that was last propagated at a position, not with the frame before: slow drift gathers
    until it is seen. `pool`: threads that share the work; None is the caller's alone.
    """

    def __init__(self, policy: StreamPolicy, first: np.ndarray, pool: PoolHandle | None = None):
        self._policy, self._pool = policy, pool
        self.last = first.copy()
        self._wanted, self._kept = _votes(policy, first.shape[2:])
        self._blocks: np.ndarray | None = None  # bool: computed in the frame before
        self._waits: np.ndarray | None = None  # frames since a block began to change below the vote

    def look(self, value: np.ndarray) -> Seen:
        """Changes nothing: `accept` does."""
        policy = self._policy
        moved, counts, finite = compare(value, self.last, policy.threshold, policy.block, self._pool)
        dirty, blocks, waits = moved, None, None
        if counts is not None:
            blocks, waits = self._vote(counts)
            dirty = _fill(blocks, policy.block, moved.shape)
        drift = 0.0
        if policy.drift < np.inf and not dirty.all():
            drift = float(np.abs(value - self.last)[0][:, ~dirty].mean())
        return Seen(dirty, np.count_nonzero(moved) / moved.size, drift, finite, blocks, waits)

    def is_finite(self, value: np.ndarray) -> bool:
        """What `look` says of it, without the rest."""
        native = library()
        if native is None:
            return bool(np.isfinite(value).all())
        value = np.ascontiguousarray(value)
        return bool(native.fv_finite(_pointer(self._pool), value.ctypes.data, value.size))

    def accept(self, value: np.ndarray, seen: Seen | None) -> None:
        """`value` was propagated where it is dirty; everywhere for None."""
        if seen is None:
            self.last[...] = value
            self._blocks = self._waits = None
            return
        self._blocks, self._waits = seen.blocks, seen.waits
        _copy_where(value, self.last, seen.dirty, self._pool)

    def _vote(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The blocks to compute, and how long each of the others waits, for what moved in each."""
        wanted = self._wanted if self._blocks is None else np.where(self._blocks, self._kept, self._wanted)
        blocks = counts >= wanted
        waits = np.where((counts > 0) & ~blocks, 1 if self._waits is None else self._waits + 1, 0)
        if self._policy.patience:
            late = waits >= self._policy.patience
            blocks, waits = blocks | late, np.where(late, 0, waits)
        return blocks, waits


def _votes(policy: StreamPolicy, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How many positions of each block must have moved: anew, and for one of the frame before. A block at the border
    has fewer positions: its vote is that share of theirs."""
    sizes = np.multiply.outer(*(_lengths(n, policy.block) for n in size))
    wanted, kept = (
        np.maximum(1, -(-vote * sizes // policy.block**2)).astype(np.int32)
        for vote in (policy.vote, policy.keep or policy.vote)
    )
    return wanted, kept


def compare(
    now: np.ndarray, last: np.ndarray, threshold: float, block: int, pool: PoolHandle | None = None
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Where any channel of [1, channels, height, width] moved by more than `threshold`, bool [height, width]; how many
    positions of each block × block did, int32, also of those cut by the border, None for blocks of 1; and whether `now`
    is finite."""
    native = library()
    if native is None:
        with np.errstate(invalid="ignore"):
            moved = (np.abs(now - last) > threshold)[0].any(axis=0)
        counts = moved.astype(np.int32)
        for axis in (0, 1):
            counts = np.add.reduceat(counts, np.arange(0, moved.shape[axis], block), axis=axis)
        return moved, counts if block > 1 else None, bool(np.isfinite(now).all())
    now, last = np.ascontiguousarray(now), np.ascontiguousarray(last)
    moved = np.empty(now.shape[2:], bool)
    counts = np.empty([-(-n // block) for n in moved.shape], np.int32) if block > 1 else None
    not_finite = native.fv_compare(
        _pointer(pool),
        now.ctypes.data,
        last.ctypes.data,
        *now.shape[1:],
        threshold,
        block,
        moved.ctypes.data,
        None if counts is None else counts.ctypes.data,
    )
    return moved, counts, not not_finite


def _fill(blocks: np.ndarray, block: int, size: tuple[int, ...]) -> np.ndarray:
    """What holds for each block, for its positions: bool [height, width]."""
    native, (height, width) = library(), size
    if native is None:
        return np.ascontiguousarray(blocks.repeat(block, 0)[:height].repeat(block, 1)[:, :width])
    filled = np.empty(size, bool)
    native.fv_fill(blocks.ctypes.data, height, width, block, filled.ctypes.data)
    return filled


def _copy_where(value: np.ndarray, last: np.ndarray, dirty: np.ndarray, pool: PoolHandle | None) -> None:
    native = library()
    if native is None:
        np.copyto(last, value, where=dirty)
        return
    value, dirty = np.ascontiguousarray(value), np.ascontiguousarray(dirty)
    pixels = value.ctypes.data, last.ctypes.data
    native.fv_accept(_pointer(pool), *pixels, *value.shape[1:], dirty.ctypes.data)


def _pointer(pool: PoolHandle | None) -> int | None:
    return None if pool is None else pool.pointer


def _lengths(positions: int, block: int) -> np.ndarray:
    return np.diff(np.append(np.arange(0, positions, block), positions))
