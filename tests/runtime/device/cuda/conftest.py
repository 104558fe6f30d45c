"""A GPU that is none, with the CUDA kernels built for the CPU; and one that is, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from foveate.runtime.cuda import library as kernel_library
from foveate.runtime.device import cuda
from foveate.runtime.device.cuda import CudaDevice
from foveate.runtime.device.driver import Driver, open_driver

from .fake_driver import FakeLibrary

_HOST = ("fv_cuda_abi", "fv_cuda_error", "fv_cuda_scratch_bytes")


@dataclass
class Kernels:
    """Those of an emulated GPU, each behind what its stream has."""

    emulated: Any
    gpu: FakeLibrary

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.emulated, name)

        def behind(*arguments: Any) -> int:
            if self.gpu.captured is not None:
                self.gpu.queue(arguments[-1], lambda: function(*arguments))
                return 0
            self.gpu.run(arguments[-1])
            return function(*arguments)

        return function if name in _HOST else behind


@pytest.fixture
def library() -> FakeLibrary:
    return FakeLibrary()


@pytest.fixture(scope="session")
def emulated_kernels(emulated_cuda) -> Any:
    return kernel_library.open_library(emulated_cuda)


@pytest.fixture
def emulated_device(library, emulated_kernels, monkeypatch) -> CudaDevice:
    kernels = Kernels(emulated_kernels, library)
    monkeypatch.setattr(kernel_library, "library", lambda: kernels)
    return CudaDevice(Driver(library))


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request) -> CudaDevice:
    """A CUDA device: of the emulated GPU, and of the real one."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated_device")
    return real_device()


def real_device() -> CudaDevice:
    if reason := cuda.why_missing():
        pytest.skip(f"no GPU to run on: {reason}")
    return CudaDevice(open_driver())
