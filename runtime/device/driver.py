"""NVIDIA's driver, by ctypes: the calls that Foveate makes, each checked."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from ..errors import EngineError

# Of CUdevice_attribute, CUmemPool_attribute and the flags of the driver's header, cuda.h.
COMPUTE_MAJOR, COMPUTE_MINOR, MEMORY_POOLS_SUPPORTED = 75, 76, 115
RELEASE_THRESHOLD = 4
NON_BLOCKING = 1
DISABLE_TIMING = 2
THREAD_LOCAL = 1

# Of CUresult.
OUT_OF_MEMORY, _NOT_INITIALIZED, _NOT_READY, _ILLEGAL_ADDRESS, _LAUNCH_FAILED = 2, 3, 600, 700, 719
_LOST = "The process's work on the GPU is lost: start it again, and report this with the message."
_FIXES = {
    OUT_OF_MEMORY: "Free memory of the GPU (nvidia-smi shows who holds it), or pass smaller batches or images.",
    _NOT_INITIALIZED: "CUDA does not survive a fork: start the process by 'spawn', or load the bundle in it first.",
    _ILLEGAL_ADDRESS: _LOST,
    _LAUNCH_FAILED: _LOST,
}

# By symbol: handles and host pointers are void*, device pointers CUdeviceptr, 64 bits.
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (c_void_p,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDeviceGetName": (c_void_p, c_int, c_int),
    "cuDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cuDeviceGetPCIBusId": (c_void_p, c_int, c_int),
    "cuDeviceTotalMem_v2": (c_void_p, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuCtxGetCurrent": (c_void_p,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (c_void_p,),
    "cuCtxSynchronize": (),
    "cuStreamCreate": (c_void_p, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, c_void_p),
    "cuEventCreate": (c_void_p, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuMemPoolCreate": (c_void_p, c_void_p),
    "cuMemPoolDestroy": (c_void_p,),
    "cuMemPoolSetAttribute": (c_void_p, c_int, c_void_p),
    "cuMemAllocFromPoolAsync": (c_void_p, c_size_t, c_void_p, c_void_p),
    "cuMemFreeAsync": (c_uint64, c_void_p),
    "cuMemAlloc_v2": (c_void_p, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (c_void_p, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemsetD8Async": (c_uint64, ctypes.c_ubyte, c_size_t, c_void_p),
    "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGetErrorName": (c_int, c_void_p),
    "cuGetErrorString": (c_int, c_void_p),
}


class MemPoolProps(ctypes.Structure):
    """CUmemPoolProps: pinned memory of the device `location[1]`."""

    _fields_ = (
        ("alloc_type", c_int),
        ("handle_types", c_int),
        ("location", c_int * 2),
        ("win32_security_attributes", c_void_p),
        ("max_size", c_size_t),
        ("usage", ctypes.c_ushort),
        ("reserved", ctypes.c_ubyte * 54),
    )


class CudaError(EngineError):
    """`code`: of CUresult."""

    def __init__(self, call: str, code: int, name: str, text: str):
        self.code = code
        super().__init__(
            f"{call} on the GPU",
            got=f"{name or 'CUDA error'} ({code}): {text or 'no text'}",
            expected="CUDA_SUCCESS",
            fix=_FIXES.get(
                code, "See `foveate doctor` and nvidia-smi; backend='ort' runs the bundle on the CPU."
            ),
        )


class Driver:
    """The driver's functions by their symbols, as attributes. A call that fails raises CudaError with the name and the
    text of its error. What a function gives goes to a `ctypes.byref`."""

    def __init__(self, library: Any):
        self._library = library
        self.cuInit(0)

    def __getattr__(self, name: str) -> Any:
        function = self._raw(name)

        def checked(*arguments: Any) -> None:
            if code := function(*arguments):
                raise self.error(name, code)

        setattr(self, name, checked)
        return checked

    def done(self, event: int | None) -> bool:
        """Whether all work before an event is."""
        code = self._raw("cuEventQuery")(event)
        if code not in (0, _NOT_READY):
            raise self.error("cuEventQuery", code)
        return code == 0

    def error(self, call: str, code: int) -> CudaError:
        return CudaError(call, code, self._text("cuGetErrorName", code), self._text("cuGetErrorString", code))

    def _text(self, function: str, code: int) -> str:
        text = c_char_p()
        self._raw(function)(code, ctypes.byref(text))
        return (text.value or b"").decode(errors="replace")

    def _raw(self, name: str) -> Callable[..., int]:
        if name not in _ARGUMENTS:
            raise AttributeError(name)
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise EngineError(
                "NVIDIA's driver",
                got=f"no function {name}",
                expected="a driver of CUDA 11.4 or newer",
                fix="Install a newer driver.",
            ) from None
        function.argtypes, function.restype = _ARGUMENTS[name], c_int
        return function


@functools.cache
def open_driver() -> Driver:
    """Raises EngineError where there is none, or no GPU."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise EngineError(
            "NVIDIA's driver",
            got=str(error),
            expected="a machine with an NVIDIA GPU and its driver",
            fix="Install the driver, or load with backend='ort'.",
        ) from error
    return Driver(library)


def find_gpu(driver: Driver, ordinal: int = 0) -> int:
    """Its handle. Raises EngineError where there is none."""
    device = c_int()
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    return device.value


def compute_of(driver: Driver, device: int) -> str:
    """Its compute capability, as "sm89". Raises EngineError."""
    major, minor = c_int(), c_int()
    for attribute, value in ((COMPUTE_MAJOR, major), (COMPUTE_MINOR, minor)):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return f"sm{major.value}{minor.value}"
