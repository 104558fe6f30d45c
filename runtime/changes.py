"""Where an input of a stream changed since it was last propagated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .native.library import library
from .policy import StreamPolicy


@dataclass(frozen=True)
class Seen:
    """What `Changes.look` found. dirty: bool [height, width], to compute; moved: share of the positions that changed;
    drift: mean |input − last propagated| over the others, 0 unless the policy asks. `blocks` and `waits` are those of
    `Changes`, once this is accepted."""

    dirty: np.ndarray
    moved: float
    drift: float
    blocks: np.ndarray | None = None
    waits: np.ndarray | None = None


class Changes:
    """Of one input, float32 [1, channels, height, width].

    Compared is with the value that was last propagated at a position, not with the frame before: slow drift gathers
    until it is seen.
    """

    def __init__(self, policy: StreamPolicy, first: np.ndarray):
        self._policy = policy
        self.last = first.copy()
        self._blocks: np.ndarray | None = None  # bool: computed in the frame before
        self._waits: np.ndarray | None = None  # frames since a block began to change below the vote

    def look(self, value: np.ndarray) -> Seen:
        """Changes nothing: `accept` does."""
        moved = changed_positions(value, self.last, self._policy.threshold)
        dirty, blocks, waits = moved, None, None
        if self._policy.block > 1:
            dirty, blocks, waits = self._vote(moved)
        drift = 0.0
        if self._policy.drift < np.inf and not dirty.all():
            drift = float(np.abs(value - self.last)[0][:, ~dirty].mean())
        return Seen(dirty, float(np.count_nonzero(moved) / moved.size), drift, blocks, waits)

    def accept(self, value: np.ndarray, seen: Seen | None) -> None:
        """`value` was propagated where it is dirty; everywhere for None."""
        if seen is None:
            self.last[...] = value
            self._blocks = self._waits = None
            return
        self._blocks, self._waits = seen.blocks, seen.waits
        _copy_where(value, self.last, seen.dirty)

    def _vote(self, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        policy, (height, width) = self._policy, moved.shape
        counts = count_in_blocks(moved, policy.block)
        # A block at the border has fewer positions: its vote is that share of theirs.
        whole = policy.block**2
        sizes = np.multiply.outer(*(_lengths(n, policy.block) for n in moved.shape))
        wanted = np.maximum(1, -(-policy.vote * sizes // whole))
        if policy.keep and self._blocks is not None:
            kept = np.maximum(1, -(-policy.keep * sizes // whole))
            wanted = np.where(self._blocks, kept, wanted)
        blocks = counts >= wanted
        waits = np.where((counts > 0) & ~blocks, 1 if self._waits is None else self._waits + 1, 0)
        if policy.patience:
            late = waits >= policy.patience
            blocks, waits = blocks | late, np.where(late, 0, waits)
        dirty = blocks.repeat(policy.block, 0)[:height].repeat(policy.block, 1)[:, :width]
        return np.ascontiguousarray(dirty), blocks, waits


def changed_positions(now: np.ndarray, last: np.ndarray, threshold: float) -> np.ndarray:
    """Where any channel of [1, channels, height, width] moved by more than `threshold`: bool [height, width]."""
    native = library()
    if native is None:
        return (np.abs(now - last) > threshold)[0].any(axis=0)
    now = np.ascontiguousarray(now)
    channels, height, width = now.shape[1:]
    moved = np.empty((height, width), bool)
    native.fv_moved(now.ctypes.data, last.ctypes.data, channels, moved.size, threshold, moved.ctypes.data)
    return moved


def count_in_blocks(moved: np.ndarray, block: int) -> np.ndarray:
    """How many of each block × block positions are true: int32, one for each block, also those cut by the border."""
    native = library()
    if native is None:
        rows = np.add.reduceat(moved.astype(np.int32), np.arange(0, moved.shape[0], block), axis=0)
        return np.add.reduceat(rows, np.arange(0, moved.shape[1], block), axis=1)
    counts = np.empty([-(-n // block) for n in moved.shape], np.int32)
    native.fv_count(moved.ctypes.data, *moved.shape, block, counts.ctypes.data)
    return counts


def _copy_where(value: np.ndarray, last: np.ndarray, dirty: np.ndarray) -> None:
    native = library()
    if native is None:
        np.copyto(last, value, where=dirty)
        return
    value = np.ascontiguousarray(value)
    native.fv_accept(value.ctypes.data, last.ctypes.data, value.shape[1], dirty.size, dirty.ctypes.data)


def _lengths(positions: int, block: int) -> np.ndarray:
    return np.diff(np.append(np.arange(0, positions, block), positions))
