"""Pinned memory of the host, through which copies to and from a GPU go, for those of other memory wait."""

from __future__ import annotations

from collections import deque
from ctypes import byref, c_void_p
from functools import partial

from .queue import Event, Held, Queue

_LEAST = 4096
_KEPT = 4 * 2**20  # bytes of a size that may be under way before one is waited for; two of the large ones


class Staging:
    """Buffers of a queue, by their size: powers of two. One is used again when the copies before its event are done."""

    def __init__(self, queue: Queue):
        self._queue = queue
        self._buffers: dict[int, deque[_Buffer]] = {}

    def take(self, nbytes: int) -> _Buffer:
        """A buffer of at least as many bytes that nothing uses."""
        size = max(_LEAST, 1 << (nbytes - 1).bit_length())
        buffers = self._buffers.setdefault(size, deque())
        most = max(2, _KEPT // size)
        if buffers and (buffers[0].idle() or len(buffers) >= most):
            buffer = buffers.popleft()
            buffer.wait()
        else:
            buffer = _Buffer(self._queue, size)
        buffers.append(buffer)
        return buffer


class _Buffer(Held):
    def __init__(self, queue: Queue, size: int):
        super().__init__(queue)
        pointer = c_void_p()
        with queue.current():
            queue.driver.cuMemHostAlloc(byref(pointer), size, 0)
        self.pointer: int = pointer.value or 0
        self._event: Event | None = None

    def used(self) -> None:
        """By what is queued so far."""
        self._event = self.queue.mark()

    def idle(self) -> bool:
        return self._event is None or self._event.done()

    def wait(self) -> None:
        if self._event is not None:
            self._event.wait()
            self._event = None

    def _give_back(self) -> None:
        self.queue.defer(partial(_free, self.queue, self.pointer))


def _free(queue: Queue, pointer: int) -> None:
    with queue.current():
        queue.driver.cuStreamSynchronize(queue.stream)  # the event of its last use may be gone
        queue.driver.cuMemFreeHost(pointer)
