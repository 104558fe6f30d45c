"""Work that is launched again and again, as one graph, on memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar

from ..errors import InternalError
from .device import Device

T = TypeVar("T")
Work = Callable[[], object]
Capture = Callable[[Work], Work]  # what queues all that work does, at once


class Recording:
    """Of `work`, which has to do the same each time that it is called, whatever the device's memory holds, and to wait
    for nothing. It is called once as it is, and once to be captured; what it takes of the device in the first call
    (memory, contexts of engines) it finds again in the second, and it stays the recording's own."""

    def __init__(self, device: Device, work: Work, capture: Capture):
        self._device = device
        self._kept: list[tuple[Hashable, Any]] = []
        self._held: list[object] = []
        self._next: int | None = None  # of what is kept; None while it is first taken
        self._call(work)
        self._next = 0
        self.launch = capture(partial(self._call, work))

    @property
    def nbytes(self) -> int:
        """Of the memory that it keeps."""
        return sum(getattr(value, "nbytes", 0) for _, value in self._kept)

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave in the first call, at this place of it. `key`: the same in each call."""
        if self._next is None:
            self._device.recording = None  # what is taken for it is not the work's
            try:
                self._kept.append((key, make()))
            finally:
                self._device.recording = self
            return self._kept[-1][1]
        taken = self._kept[self._next : self._next + 1]
        if [known for known, _ in taken] != [key]:
            raise InternalError(f"recorded work takes {key}, and took {[known for known, _ in taken]} before")
        self._next += 1
        return taken[0][1]

    def hold(self, value: object) -> None:
        """As long as the recording."""
        self._held.append(value)

    def _call(self, work: Work) -> None:
        if self._next is not None:
            self._next = 0
        self._device.recording = self
        try:
            work()
        finally:
            self._device.recording = None
