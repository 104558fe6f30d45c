"""Arrays that other libraries share with the device, and it with them: no copies, and nobody reads too early or frees
too soon. With stand-ins for these libraries on an emulated GPU; with torch on a real one."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from foveate.runtime.device import dlpack
from foveate.runtime.device.cuda import CudaDevice
from foveate.runtime.device.dlpack import CUDA
from foveate.runtime.device.driver import Driver
from foveate.runtime.errors import InputError

from .conftest import real_device
from .fake_driver import LEGACY, FakeLibrary


@pytest.fixture
def device(library: FakeLibrary) -> CudaDevice:
    return CudaDevice(Driver(library))


@pytest.fixture
def stream(library: FakeLibrary) -> int:
    """Another library's."""
    library.streams[0xABC] = []
    return 0xABC


class Foreign:
    """An array of another library, in host memory that passes for the GPU's."""

    def __init__(self, array: np.ndarray, on: tuple[int, int] = (CUDA, 0)):
        self.array, self.on, self.streams, self.back = array, on, [], 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.on

    def __dlpack__(self, *, stream: int) -> Any:
        self.streams.append(stream)
        return dlpack.export(
            self.array.ctypes.data, self.array.shape, self.array.dtype, self.on, self.returned
        )

    def returned(self) -> None:
        self.back += 1


def test_an_array_is_adopted_without_a_copy_and_returned_behind_the_work_on_it(device: CudaDevice):
    foreign = Foreign(np.arange(6, dtype=np.float32).reshape(2, 3))
    array = device.adopt(foreign)
    assert array is not None and array.pointer == foreign.array.ctypes.data
    assert foreign.streams == [device.queue.stream]  # it makes our stream wait for its own
    copy = device.copy(array)
    del array
    device.empty((1,), np.float32)
    assert not foreign.back  # the copy is only queued
    np.testing.assert_array_equal(device.get([copy])[0], foreign.array)
    assert foreign.back == 1


def test_what_lies_elsewhere_is_not_adopted(device: CudaDevice):
    for other in (np.zeros(3), "text", Foreign(np.zeros(3), (1, 0)), Foreign(np.zeros(3), (CUDA, 1))):
        assert device.adopt(other) is None
    array = device.empty((1,), np.float32)
    assert device.adopt(array) is array


def test_strided_arrays_are_packed_by_their_library(device: CudaDevice):
    class Strided(Foreign):
        def __dlpack__(self, *, stream: int) -> Any:
            capsule = super().__dlpack__(stream=stream)
            tensor = dlpack._Managed.from_address(dlpack._pointer(capsule, b"dltensor")).tensor
            tensor.strides[0], tensor.strides[1] = 1, 2
            return capsule

        def contiguous(self) -> Foreign:
            return packed

    packed = Foreign(np.arange(6, dtype=np.float32).reshape(2, 3))
    strided = Strided(np.zeros((2, 3), np.float32))
    array = device.adopt(strided)
    assert array is not None and array.pointer == packed.array.ctypes.data and strided.back == 1


def test_types_that_numpy_lacks_are_refused(device: CudaDevice):
    torch = pytest.importorskip("torch")

    class BFloat(Foreign):
        def __dlpack__(self, *, stream: int) -> Any:
            return torch.zeros(3, dtype=torch.bfloat16).__dlpack__()

    with pytest.raises(InputError, match=r"16 bits(.|\n)*float\(\)"):
        device.adopt(BFloat(np.zeros(3)))


def test_the_cuda_array_interface_is_understood(device: CudaDevice, library: FakeLibrary, stream: int):
    class Numba:
        def __init__(self, array: np.ndarray):
            facts = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, False)}
            self.__cuda_array_interface__ = facts | {"strides": array.strides, "version": 3, "stream": stream}
            self.array = array

        def copy(self) -> Numba:
            return Numba(np.ascontiguousarray(self.array))

    numbers = np.zeros((2, 3), np.int32)
    library.queue(stream, lambda: numbers.fill(7))  # what made it is not done yet
    array = device.adopt(Numba(numbers))
    assert array is not None and array.pointer == numbers.ctypes.data
    np.testing.assert_array_equal(device.get([array])[0], 7)
    turned = device.adopt(Numba(numbers.T))
    assert turned is not None and turned.shape == (3, 2) and turned.pointer != numbers.ctypes.data


def test_a_taker_waits_for_our_work_and_we_for_its(device: CudaDevice, library: FakeLibrary, stream: int):
    array, seen = device.put(np.ones(4, np.float32)), []
    capsule = array.__dlpack__(stream=stream)
    taken = dlpack.take(capsule)
    library.queue(stream, lambda: seen.append(read(taken.pointer, 4)))
    library.run(stream)
    np.testing.assert_array_equal(seen[0], 1)
    library.queue(stream, lambda: seen.append(read(taken.pointer, 4)))  # it reads again …
    del array, capsule
    taken.release()  # … and gives up the array before that is done
    other = device.put(np.zeros(4, np.float32))
    device.get([other])
    np.testing.assert_array_equal(seen[1], 1)
    assert not any(read(taken.pointer, 4) == 1)  # freed, and filled with JUNK


def test_without_a_stream_the_default_one_is_meant(device: CudaDevice, library: FakeLibrary):
    array = device.put(np.ones(4, np.float32))
    array.__dlpack__()
    library.run(LEGACY)
    np.testing.assert_array_equal(read(array.pointer, 4), 1)
    facts = array.__cuda_array_interface__
    assert facts["stream"] == device.queue.stream and facts["data"] == (array.pointer, False)


def read(pointer: int, n: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(pointer)).copy()


@pytest.mark.gpu
def test_torch_and_the_device_share_arrays():
    device = real_device()
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA")
    numbers = np.random.default_rng(0).random((64, 3, 32, 32)).astype(np.float32)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # made on a stream of torch's, read on ours
        tensor = torch.from_numpy(numbers).cuda(non_blocking=True) * 2
    with torch.cuda.stream(side):
        array = device.adopt(tensor)
    assert array is not None and array.pointer == tensor.data_ptr()
    np.testing.assert_array_equal(device.get([array])[0], numbers * 2)
    made = device.put(numbers)
    shared = torch.from_dlpack(made)
    assert shared.data_ptr() == made.pointer and shared.device == torch.device("cuda:0")
    del made
    gc.collect()
    torch.testing.assert_close(shared.cpu(), torch.from_numpy(numbers), rtol=0, atol=0)
    assert torch.as_tensor(device.put(numbers), device="cuda").sum().item() == pytest.approx(
        numbers.sum(), rel=1e-4
    )
    strided = device.adopt(tensor.permute(0, 2, 3, 1))
    assert strided is not None
    np.testing.assert_array_equal(device.get([strided])[0], (numbers * 2).transpose(0, 2, 3, 1))
    gradient = torch.ones(3, device="cuda", requires_grad=True)
    assert device.adopt(gradient) is not None
    for _ in range(100):  # freed while torch still reads
        torch.from_dlpack(device.put(numbers)).mul_(2)
    device.queue.wait()
