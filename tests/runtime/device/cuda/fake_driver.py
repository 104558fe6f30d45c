"""A driver in the place of NVIDIA's: a GPU whose memory is the host's, and which does nothing before it has to.

Work stays in its stream until something waits for it, so that what is used too early, or freed or overwritten too soon,
shows. Freed memory is filled with junk.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_char_p, c_float, c_int, c_uint64
from typing import Any, ClassVar

from foveate.runtime.device import driver as module

JUNK = 0xA5
OUT_OF_MEMORY, NOT_READY, CAPTURE_UNSUPPORTED = 2, 600, 900
CONTEXT, OTHER_CONTEXT = 0xC0, 0xC1
LEGACY = 1
Work = Callable[[], object]


class FakeLibrary:
    """`fail[symbol] = code` makes the next call of it fail. `calls` are the symbols called, in order. `eager`: work is
    done at once, for what else works on the same memory."""

    def __init__(self, pools: bool = True, total: int = 1 << 30, eager: bool = False):
        self.pools, self.total, self.eager = pools, total, eager
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.current: int | None = None
        self.live: dict[int, Any] = {}  # device memory, by pointer
        self.pinned: dict[int, Any] = {}
        self.freed: list[Any] = []  # kept, so that who still writes there hits nothing else
        self.streams: dict[int, list[Work]] = {LEGACY: []}
        self.events: dict[int, tuple[int, list[bool]]] = {}  # the stream; not empty once it is reached
        self.captured: list[Work] | None = None
        self.graphs: dict[int, list[Work]] = {}
        self.ended = 0  # streams
        self._handles = iter(range(0x1000, 1 << 30))
        for name, arguments in module._ARGUMENTS.items():
            function = CFUNCTYPE(c_int, *arguments)(self._counted(name, getattr(self, f"_{name}")))
            setattr(self, name, function)

    def _counted(self, name: str, function: Callable[..., int | None]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if code := self.fail.pop(name, 0):
                if name == "cuStreamEndCapture":  # a capture that failed has ended all the same
                    self.captured = None
                return code
            return function(*arguments) or 0

        return call

    def queue(self, stream: int, work: Work) -> None:
        """What a kernel is for this GPU."""
        (self.streams[stream] if self.captured is None else self.captured).append(work)
        if self.eager:
            self.run(stream)

    def run(self, stream: int, until: Callable[[], bool] = lambda: False) -> None:
        while self.streams[stream] and not until():
            self.streams[stream].pop(0)()

    # --- the GPU

    def _cuInit(self, flags): ...

    def _cuDriverGetVersion(self, out):
        _write(out, 13000, c_int)

    def _cuDeviceGet(self, out, ordinal):
        _write(out, ordinal, c_int)

    def _cuDeviceGetName(self, out, length, device):
        ctypes.memmove(out, b"Fake GPU\0", 9)

    def _cuDeviceGetAttribute(self, out, attribute, device):
        _write(out, {75: 9, 76: 0, 115: int(self.pools)}[attribute], c_int)

    def _cuDeviceGetPCIBusId(self, out, length, device):
        ctypes.memmove(out, b"0000:01:00.0\0", 13)

    def _cuDeviceTotalMem_v2(self, out, device):
        _write(out, self.total)

    def _cuDevicePrimaryCtxRetain(self, out, device):
        _write(out, CONTEXT)

    # --- contexts

    def _cuCtxGetCurrent(self, out):
        _write(out, self.current or 0)

    def _cuCtxSetCurrent(self, context):
        self.current = context

    def _cuCtxPushCurrent_v2(self, context):
        self.pushed, self.current = self.current, context

    def _cuCtxPopCurrent_v2(self, out):
        self.current = self.pushed

    def _cuCtxSynchronize(self): ...

    # --- streams and events

    def _cuStreamCreate(self, out, flags):
        handle = next(self._handles)
        self.streams[handle] = []
        _write(out, handle)

    def _cuStreamDestroy_v2(self, stream):
        self.run(stream)
        del self.streams[stream]
        self.ended += 1

    def _cuStreamSynchronize(self, stream):
        self.run(stream)

    def _cuStreamWaitEvent(self, stream, event, flags):
        source, reached = self.events[event]
        self.queue(stream, lambda: self.run(source, lambda: bool(reached)))

    def _cuEventCreate(self, out, flags):
        handle = next(self._handles)
        self.events[handle] = (0, [])
        _write(out, handle)

    def _cuEventDestroy_v2(self, event):
        del self.events[event]

    def _cuEventRecord(self, event, stream):
        reached: list[bool] = []
        self.events[event] = (stream, reached)
        self.queue(stream, lambda: reached.append(True))

    def _cuEventQuery(self, event):
        return 0 if self.events[event][1] else NOT_READY

    def _cuEventSynchronize(self, event):
        stream, reached = self.events[event]
        self.run(stream, lambda: bool(reached))

    def _cuEventElapsedTime(self, out, start, end):
        if not (self.events[start][1] and self.events[end][1]):
            return NOT_READY
        out[0] = c_float(end - start).value
        return 0

    # --- memory

    def _allocate(self, out, size, table):
        block = (ctypes.c_ubyte * size)()
        ctypes.memset(block, JUNK, size)
        table[ctypes.addressof(block)] = block
        _write(out, ctypes.addressof(block))

    def _freed(self, pointer, table):
        block = table.pop(pointer)
        ctypes.memset(block, JUNK, len(block))
        self.freed.append(block)

    def _cuMemPoolCreate(self, out, properties):
        _write(out, next(self._handles))

    def _cuMemPoolDestroy(self, pool): ...
    def _cuMemPoolSetAttribute(self, pool, attribute, value):
        assert (attribute, c_uint64.from_address(value).value) == (4, 2**64 - 1)

    def _cuMemAllocFromPoolAsync(self, out, size, pool, stream):
        if sum(len(block) for block in self.live.values()) + size > self.total:
            return OUT_OF_MEMORY
        return self._allocate(out, size, self.live)

    def _cuMemAlloc_v2(self, out, size):
        self._allocate(out, size, self.live)

    def _cuMemFreeAsync(self, pointer, stream):
        self.queue(stream, lambda: self._freed(pointer, self.live))

    def _cuMemFree_v2(self, pointer):
        for stream in self.streams:
            self.run(stream)
        self._freed(pointer, self.live)

    def _cuMemHostAlloc(self, out, size, flags):
        self._allocate(out, size, self.pinned)

    def _cuMemFreeHost(self, pointer):
        self._freed(pointer, self.pinned)

    def _move(self, target, source, size, stream):
        self.queue(stream, lambda: ctypes.memmove(target, source, size))

    _cuMemcpyHtoDAsync_v2 = _cuMemcpyDtoHAsync_v2 = _cuMemcpyDtoDAsync_v2 = _move

    def _cuMemsetD8Async(self, target, value, size, stream):
        self.queue(stream, lambda: ctypes.memset(target, value, size))

    # --- graphs

    def _cuStreamBeginCapture_v2(self, stream, mode):
        self.captured = []

    def _cuStreamEndCapture(self, stream, out):
        handle = next(self._handles)
        self.graphs[handle], self.captured = self.captured or [], None
        _write(out, handle)

    def _cuGraphInstantiateWithFlags(self, out, graph, flags):
        handle = next(self._handles)
        self.graphs[handle] = self.graphs[graph]
        _write(out, handle)

    def _cuGraphLaunch(self, graph, stream):
        for work in self.graphs[graph]:
            self.queue(stream, work)

    def _cuGraphDestroy(self, graph):
        del self.graphs[graph]

    _cuGraphExecDestroy = _cuGraphDestroy

    # --- errors

    _names: ClassVar = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 700: b"CUDA_ERROR_ILLEGAL_ADDRESS"}

    def _cuGetErrorName(self, code, out):
        c_char_p.from_address(out).value = self._names.get(code, b"CUDA_ERROR_OTHER")

    def _cuGetErrorString(self, code, out):
        c_char_p.from_address(out).value = b"what it means"


def _write(out: int, value: int, kind: Any = c_uint64) -> None:
    kind.from_address(out).value = value
