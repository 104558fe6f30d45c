"""Reference states: what a region's tensors hold where nothing is dirty, and the scratch that is written over it.

A reference depends on the resolution alone, is immutable, and is kept in an LRU bounded in bytes. Selective execution
writes into a scratch copy, which goes back to its reference's pool restored only where it was dirtied.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from .grid import RegionGrid
from .windows import Slices

_LOG = logging.getLogger("foveate")


@dataclass
class Scratch:
    """A writable copy of a reference for one image at a time. Whoever writes says where, through `dirtied`."""

    arrays: dict[str, np.ndarray]
    dirtied: list[tuple[str, Slices]] = field(default_factory=list)


class Reference:
    """The immutable activations of a region with nothing active, and its pool of scratch.

    A tensor that is zero everywhere is held as one broadcast element: its scratch is restored by a fill.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = {name: _freeze(value) for name, value in arrays.items()}
        self.scratch_bytes = sum(
            value.nbytes for value in self.arrays.values()
        )  # nbytes counts broadcast elements
        self.held_bytes = sum(_held_bytes(value) for value in self.arrays.values())
        self.pool: list[Scratch] = []
        self.cached = True
        self.grid: RegionGrid | None = None  # the region's geometry at this resolution, kept with it

    def new_scratch(self) -> Scratch:
        return Scratch({name: np.array(value, order="C") for name, value in self.arrays.items()})

    def restore(self, scratch: Scratch) -> None:
        for name, place in scratch.dirtied:
            source = self.arrays[name]
            scratch.arrays[name][place] = source[place] if any(source.strides) else source.flat[0]
        scratch.dirtied.clear()


class Cached(Protocol):
    """A reference as the cache sees it: with a pool of scratch of `scratch_bytes` each, and `held_bytes` beside."""

    pool: list[Any]
    cached: bool

    @property
    def held_bytes(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...

    def new_scratch(self) -> Any: ...
    def restore(self, scratch: Any) -> None: ...


R = TypeVar("R", bound=Cached)


class ReferenceCache:
    """References by key, the least recently used dropped beyond `limit` bytes. Safe for concurrent callers.

    The bytes of a reference include one scratch; further pooled scratch counts as it is returned.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.built = self.evicted = 0
        self._too_large: dict[Hashable, int] = {}
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock, self._building = threading.Lock(), threading.Lock()

    def get(self, key: Hashable, build: Callable[[], R], estimate: Callable[[], int] = int) -> R | None:
        """The reference of `key`, built where it is not cached; None where it alone is above the limit, for which an
        `estimate` of its bytes saves building it."""
        found = self._find(key)
        if found is not None or key in self._too_large:
            return found
        need = estimate()
        if need > self.limit:
            self._refuse(key, need)
            return None
        with self._building:  # one at a time: two threads would each hold a full set of activations
            found = self._find(key)
            return found if found is not None or key in self._too_large else self._insert(key, build())

    def borrow(self, reference: Cached) -> Any:
        with self._lock:
            if reference.pool:
                return reference.pool.pop()
        return reference.new_scratch()

    def give_back(self, reference: Cached, scratch: Any) -> None:
        """Restores the scratch and pools it, or drops it where the cache is full or the reference evicted."""
        if not reference.cached:
            return
        reference.restore(scratch)
        with self._lock:
            room = not reference.pool or self._total() + reference.scratch_bytes <= self.limit
            if reference.cached and room:
                reference.pool.append(scratch)

    def clear(self) -> None:
        """Forgets every reference; scratch that is lent out is dropped when it comes back."""
        with self._lock:
            self._too_large.clear()
            while self._entries:
                self._drop_oldest()

    @property
    def refused(self) -> int:
        """How many resolutions run dense because their reference alone is above the limit."""
        return len(self._too_large)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return self._total()

    @property
    def room(self) -> int:
        """Bytes up to the limit."""
        return self.limit - self.nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def _find(self, key: Hashable) -> Any:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def _insert(self, key: Hashable, reference: R) -> R | None:
        need = _entry_bytes(reference)
        if need > self.limit:
            self._refuse(key, need)
            return None
        with self._lock:
            self.built += 1
            self._entries[key] = reference
            while self._total() > self.limit:
                self._drop_oldest()
                self.evicted += 1
        return reference

    def _refuse(self, key: Hashable, need: int) -> None:
        self._too_large[key] = need
        _LOG.warning(
            "the reference state of %s needs %d bytes and cache_bytes is %d: it runs dense. "
            "Load with a larger cache_bytes to run it selectively.",
            key,
            need,
            self.limit,
        )

    def _drop_oldest(self) -> None:
        _, oldest = self._entries.popitem(last=False)
        oldest.cached = False
        oldest.pool.clear()

    def _total(self) -> int:
        return sum(_entry_bytes(reference) for reference in self._entries.values())


def _entry_bytes(reference: Cached) -> int:
    return reference.held_bytes + max(1, len(reference.pool)) * reference.scratch_bytes


def _freeze(value: np.ndarray) -> np.ndarray:
    if not value.any():
        return np.broadcast_to(value.dtype.type(0), value.shape)  # read-only, one element
    frozen = value if value.flags.owndata else value.copy()
    frozen.flags.writeable = False
    return frozen


def _held_bytes(value: np.ndarray) -> int:
    return value.nbytes if any(value.strides) else value.itemsize
