"""Where the CUDA kernels run: on a GPU, or emulated."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from foveate.runtime.cuda import library
from foveate.runtime.cuda_device import compute_capability
from foveate.runtime.device.device import Reach, Tiles

BACKWARDS = 1  # a stream on which the emulator runs the last block and thread first


@dataclass(frozen=True)
class Array:
    """Of numpy, as an array on a device."""

    numbers: np.ndarray

    @property
    def pointer(self) -> int:
        assert self.numbers.flags.c_contiguous
        return self.numbers.ctypes.data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape

    @property
    def dtype(self) -> np.dtype:
        return self.numbers.dtype


class Emulated:
    """Runs kernels on arrays of numpy where they lie."""

    def run(self, kernel: Callable[..., None], *given: Any, backwards: bool = False) -> None:
        kernel(*(_replaced(value, Array) for value in given), stream=BACKWARDS if backwards else 0)


class Gpu:
    """Runs kernels on copies of arrays in a GPU's memory, and copies them back; asks its driver for all of that."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def run(self, kernel: Callable[..., None], *given: Any, backwards: bool = False) -> None:
        copies: dict[int, tuple[np.ndarray, ctypes.c_uint64, OnGpu]] = {}

        def copied(array: np.ndarray) -> OnGpu:
            if id(array) not in copies:
                memory, shift = ctypes.c_uint64(), array.ctypes.data % 256
                self._call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(array.nbytes + 256))
                made = OnGpu(memory.value + shift, array.shape, array.dtype)
                copies[id(array)] = array, memory, made
                if array.nbytes:
                    self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(made.pointer), *_host(array))
            return copies[id(array)][2]

        kernel(*(_replaced(value, copied) for value in given))
        self._call("cuCtxSynchronize")
        for array, memory, made in copies.values():
            if array.nbytes:
                data, size = _host(array)
                self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(made.pointer), size)
            self._call("cuMemFree_v2", memory)

    def _call(self, name: str, *given: Any) -> None:
        assert getattr(self._driver, name)(*given) == 0, name


@dataclass(frozen=True)
class OnGpu:
    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype


def _host(array: np.ndarray) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    return ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)


def _replaced(value: Any, to: Callable[[np.ndarray], Any]) -> Any:
    """With its arrays replaced, wherever in it they are."""
    if isinstance(value, np.ndarray):
        return to(value)
    if isinstance(value, list | tuple):
        return type(value)(_replaced(v, to) for v in value)
    if isinstance(value, Tiles | Reach):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value)(**{name: _replaced(v, to) for name, v in fields.items()})
    return value


@pytest.fixture
def emulation(emulated_cuda, monkeypatch):
    """The binding calls the emulated kernels."""
    emulated = library.open_library(emulated_cuda)
    monkeypatch.setattr(library, "library", lambda: emulated)
    return Emulated()


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """Where kernels run: emulated everywhere, and on a GPU where there is one."""
    if request.param == "emulated":
        return request.getfixturevalue("emulation")
    if not compute_capability():
        pytest.skip("this machine has no NVIDIA GPU; the emulated kernels are tested everywhere")
    if library.library() is None:
        pytest.skip(f"no CUDA kernels: {library.why_missing()}")
    return Gpu()
