"""A GPU's queue of work and its memory, on raw pointers: one context, one stream, one pool."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator
from ctypes import byref, c_float, c_int, c_uint64, c_void_p
from functools import partial
from threading import get_ident
from time import perf_counter
from typing import Any

from ..errors import FoveateError
from .driver import (
    DISABLE_TIMING,
    MEMORY_POOLS_SUPPORTED,
    NON_BLOCKING,
    OUT_OF_MEMORY,
    RELEASE_THRESHOLD,
    THREAD_LOCAL,
    CudaError,
    Driver,
    MemPoolProps,
)

_ON_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE, and CU_MEM_ALLOCATION_TYPE_PINNED


class Queue:
    """Of one GPU, by its ordinal. The context is the primary one, which torch, CuPy, onnxruntime and TensorRT use, too.
    The pool is our own, and keeps what is freed: the device's default one gives it back to the system at each wait.

    Lives as long as what was made of it (`Held`). That may be given back by any thread, all else takes turns.
    `waited_ms`: so long the host has waited for it."""

    def __init__(self, driver: Driver, ordinal: int):
        self.driver, self.ordinal, self.waited_ms = driver, ordinal, 0.0
        self.users: set[int] = set()  # of `Held`, by their ids
        self._ended = False
        self.entered: int | None = None  # the thread that has just made the context current
        self.device: int = _asked(c_int(), driver.cuDeviceGet, ordinal)
        # Kept until the process ends: whatever shares it, such as a library's modules, stays as it is.
        self.context: int = _asked(c_void_p(), driver.cuDevicePrimaryCtxRetain, self.device)
        self._retired: deque[tuple[Event, Callable[[], None]]] = deque()
        self._later: list[Callable[[], None]] | None = None  # while work is captured: what waits for its end
        self._capturer = 0  # the thread that captures
        self._missed: deque[Callable[[], None]] = deque()  # what came while another thread was at it
        self._changed = threading.Condition(threading.RLock())  # garbage may be collected within
        with self.current():
            self.stream: int = _asked(c_void_p(), driver.cuStreamCreate, NON_BLOCKING)
            pools = _asked(c_int(), driver.cuDeviceGetAttribute, MEMORY_POOLS_SUPPORTED, self.device)
            self._pool = self._make_pool() if pools else None

    def _make_pool(self) -> int:
        properties = MemPoolProps(alloc_type=_ON_DEVICE, location=(_ON_DEVICE, self.ordinal))
        pool = _asked(c_void_p(), self.driver.cuMemPoolCreate, byref(properties))
        self.driver.cuMemPoolSetAttribute(pool, RELEASE_THRESHOLD, byref(c_uint64(2**64 - 1)))
        return pool

    def current(self) -> _Current:
        """With it the context is current in this thread."""
        return _Current(self)

    def allocate(self, nbytes: int) -> int:
        """A pointer to memory that may be used in the order of the queue. Raises EngineError."""
        self._drain()
        try:
            return self._allocate(nbytes)
        except CudaError as error:
            if error.code != OUT_OF_MEMORY:
                raise
        self.wait()  # for what is yet to be given back
        return self._allocate(nbytes)

    def _allocate(self, nbytes: int) -> int:
        with self.current():
            if self._pool is None:
                return _asked(c_uint64(), self.driver.cuMemAlloc_v2, nbytes)
            return _asked(c_uint64(), self.driver.cuMemAllocFromPoolAsync, nbytes, self._pool, self.stream)

    def free(self, pointer: int) -> None:
        """Once all that is queued is done."""
        self.defer(partial(self._free, pointer))

    def _free(self, pointer: int) -> None:
        with self.current():
            if self._pool is None:
                self.driver.cuMemFree_v2(pointer)
            else:
                self.driver.cuMemFreeAsync(pointer, self.stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        with self.current():
            self.driver.cuMemcpyDtoDAsync_v2(target, source, nbytes, self.stream)

    def upload(self, target: int, host: int, nbytes: int) -> None:
        with self.current():
            self.driver.cuMemcpyHtoDAsync_v2(target, host, nbytes, self.stream)

    def download(self, host: int, source: int, nbytes: int) -> None:
        with self.current():
            self.driver.cuMemcpyDtoHAsync_v2(host, source, nbytes, self.stream)

    def fill(self, target: int, value: int, nbytes: int) -> None:
        """With a byte."""
        with self.current():
            self.driver.cuMemsetD8Async(target, value, nbytes, self.stream)

    def wait(self) -> None:
        """For all that is queued. Raises EngineError for what failed of it."""
        with self.current(), self.waiting():
            self.driver.cuStreamSynchronize(self.stream)
        self._drain()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Adds what is done in it to `waited_ms`."""
        start = perf_counter()
        yield
        self.waited_ms += (perf_counter() - start) * 1e3

    def mark(self, timing: bool = False) -> Event:
        """A point in the queue."""
        return Event(self, self.stream, timing)

    def follow(self, stream: int) -> None:
        """What is queued from now on runs after what another stream of this GPU has by now."""
        with self.between_captures(), self.current():
            event = Event(self, stream)
            self.driver.cuStreamWaitEvent(self.stream, event.handle, 0)

    def lead(self, stream: int) -> None:
        """What another stream is given from now on runs after what is queued by now."""
        with self.between_captures(), self.current():
            event = self.mark()
            self.driver.cuStreamWaitEvent(stream, event.handle, 0)

    def retire(self, action: Callable[[], None]) -> None:
        """Calls it once all that is queued by now is done, at some later call."""
        self._retired.append((self.mark(), action))

    def defer(self, action: Callable[[], None]) -> None:
        """Calls it now, or at the end of a capture: for what queues work whenever garbage is collected. So it waits for
        no other thread; what one of them hinders is called with the next memory that is taken."""
        if not self._changed.acquire(blocking=False):
            self._missed.append(action)
            return
        try:
            if self._later is not None:
                self._later.append(action)
            else:
                action()
        finally:
            self._changed.release()

    @contextlib.contextmanager
    def between_captures(self) -> Iterator[None]:
        """What other threads do in it to the stream is no part of what is captured."""
        with self._changed:
            while self._later is not None and self._capturer != get_ident():
                self._changed.wait()
            yield

    def _drain(self) -> None:
        for _ in range(len(self._missed)):
            self.defer(self._missed.popleft())
        if self._later is not None:  # events cannot be asked
            return
        while self._retired and self._retired[0][0].done():
            self._retired.popleft()[1]()

    def capture(self, work: Callable[[], object]) -> Graph:
        """What `work` queues, as one graph; nothing of it runs. Raises what `work` does, and EngineError where some of
        it cannot be captured."""
        with self.current(), self.deferring():
            self.driver.cuStreamBeginCapture_v2(self.stream, THREAD_LOCAL)
            try:
                work()
            except BaseException:
                with contextlib.suppress(FoveateError):  # the error that counts is on its way
                    self.driver.cuGraphDestroy(self._end_capture())
                raise
            captured = self._end_capture()
            try:
                return Graph(self, _asked(c_void_p(), self.driver.cuGraphInstantiateWithFlags, captured, 0))
            finally:
                self.driver.cuGraphDestroy(captured)

    def _end_capture(self) -> int:
        graph = c_void_p()
        self.driver.cuStreamEndCapture(self.stream, byref(graph))
        return graph.value or 0

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """While something is captured, by us or by another library: what queues work whenever garbage is collected is
        held back, and so are other threads that would."""
        with self.between_captures():
            self._later, self._capturer = [], get_ident()
        collects = gc.isenabled()
        gc.disable()  # what goes with other libraries' objects is not ours to hold back
        try:
            yield
        finally:
            if collects:
                gc.enable()
            with self._changed:
                later, self._later = self._later, None
                self._changed.notify_all()
            for action in later:
                action()

    def drop(self, user: int) -> None:
        self.users.discard(user)
        if self._ended and not self.users:
            self._close()

    def __del__(self) -> None:
        """Garbage is collected in any order: what is made of it may still be there."""
        self._ended = True
        if not self.users:
            self._close()

    def _close(self) -> None:
        with (
            contextlib.suppress(Exception),
            self.current(),
        ):  # after the driver's own end nothing is left to free
            self.driver.cuStreamSynchronize(self.stream)
            while self._missed:
                self._missed.popleft()()
            while self._retired:
                self._retired.popleft()[1]()
            if self._pool is not None:
                self.driver.cuMemPoolDestroy(self._pool)
            self.driver.cuStreamDestroy_v2(self.stream)


class Held:
    """What is made of a queue, and given back with its last reference."""

    def __init__(self, queue: Queue):
        self.queue = queue
        queue.users.add(id(self))

    def _give_back(self) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        try:
            self._give_back()
        except Exception:  # after the driver's own end nothing is left to give back
            pass
        finally:
            self.queue.drop(id(self))


class _Current:
    """Another GPU's context comes back at the end; where there was none, ours stays."""

    __slots__ = ("_outermost", "_pushed", "_queue")

    def __init__(self, queue: Queue):
        self._queue, self._pushed, self._outermost = queue, False, False

    def __enter__(self) -> None:
        queue, thread = self._queue, get_ident()
        if queue.entered == thread:
            return
        now = _asked(c_void_p(), queue.driver.cuCtxGetCurrent)
        if now is None:
            queue.driver.cuCtxSetCurrent(queue.context)
        elif now != queue.context:
            queue.driver.cuCtxPushCurrent_v2(queue.context)
            self._pushed = True
        queue.entered, self._outermost = thread, True

    def __exit__(self, *_: object) -> None:
        if self._outermost:
            self._queue.entered = None
        if self._pushed:
            self._queue.driver.cuCtxPopCurrent_v2(byref(c_void_p()))


class Event(Held):
    """A point in a stream's work."""

    def __init__(self, queue: Queue, stream: int, timing: bool = False):
        super().__init__(queue)
        with queue.current():
            flags = 0 if timing else DISABLE_TIMING
            self.handle: int = _asked(c_void_p(), queue.driver.cuEventCreate, flags)
            queue.driver.cuEventRecord(self.handle, stream)

    def done(self) -> bool:
        """Raises EngineError for what failed before it."""
        with self.queue.current():
            return self.queue.driver.done(self.handle)

    def wait(self) -> None:
        """Raises EngineError for what failed before it."""
        with self.queue.current(), self.queue.waiting():
            self.queue.driver.cuEventSynchronize(self.handle)

    def ms_since(self, start: Event) -> float:
        """Waits for both. They are marks with timing."""
        self.wait()
        ms = c_float()
        with self.queue.current():
            self.queue.driver.cuEventElapsedTime(byref(ms), start.handle, self.handle)
        return ms.value

    def _give_back(self) -> None:
        self.queue.defer(partial(_destroy, self.queue, self.queue.driver.cuEventDestroy_v2, self.handle))


class Graph(Held):
    """Captured work, which runs as a whole on the memory that it was captured with."""

    def __init__(self, queue: Queue, handle: int):
        super().__init__(queue)
        self._handle = handle

    def launch(self) -> None:
        with self.queue.current():
            self.queue.driver.cuGraphLaunch(self._handle, self.queue.stream)

    def _give_back(self) -> None:
        self.queue.defer(partial(_destroy, self.queue, self.queue.driver.cuGraphExecDestroy, self._handle))


def _destroy(queue: Queue, function: Callable[[int], None], handle: int) -> None:
    with queue.current():
        function(handle)


def _asked(out: Any, function: Callable[..., None], *arguments: Any) -> Any:
    """What a call of the driver writes behind its first argument."""
    function(ctypes.byref(out), *arguments)
    return out.value
