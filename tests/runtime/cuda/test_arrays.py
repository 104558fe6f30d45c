"""Arrays of other libraries: what of them is understood, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from foveate.runtime.cuda import arrays, kernels
from foveate.runtime.cuda.arrays import stream_pointer, view
from foveate.runtime.errors import InputError

NUMBERS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def interface(array: np.ndarray, **facts: Any) -> Any:
    """As torch and CuPy describe theirs."""
    said = dict(array.__array_interface__) | {"strides": None} | facts
    return SimpleNamespace(__cuda_array_interface__=said)


def test_the_cuda_array_interface_is_read():
    found = view(interface(NUMBERS), "x")
    assert (found.pointer, found.shape, found.dtype) == (NUMBERS.ctypes.data, (2, 3, 4), np.float32)
    assert found.row_bytes == 48 and view(interface(NUMBERS, strides=NUMBERS.strides), "x")[:3] == found[:3]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, np.bool_])
def test_dlpack_is_read(monkeypatch, dtype):
    monkeypatch.setattr(arrays, "DEVICES", {1})  # memory of this machine stands for a GPU's
    numbers = NUMBERS.astype(dtype)[1:]
    found = view(numbers, "x")
    assert (found.pointer, found.shape, found.dtype) == (numbers.ctypes.data, (1, 3, 4), dtype)
    with pytest.raises(InputError, match="C-contiguous"):
        view(numbers[..., ::2], "x")


def test_an_empty_array_and_axes_of_one_are_contiguous():
    one = np.zeros((3, 1, 4), np.float32)
    assert view(interface(one, strides=(16, 999, 4)), "x").shape == (3, 1, 4)
    assert view(interface(np.zeros((0, 3), np.float32), strides=(1, 1)), "x").shape == (0, 3)


def test_what_is_not_on_a_gpu_is_refused():
    with pytest.raises(InputError, match=r"x: got an array on DLPack's device type 1"):
        view(NUMBERS, "x")
    with pytest.raises(InputError, match=r"x: got list; expected an array on a GPU"):
        view([1.0], "x")
    with pytest.raises(InputError, match=r"x: got one of shape \[2, 3, 4\] with strides"):
        view(interface(NUMBERS, strides=(4, 48, 16)), "x")


def test_streams_of_several_libraries_are_taken():
    streams = [None, 7, SimpleNamespace(cuda_stream=8), SimpleNamespace(ptr=9)]
    assert [stream_pointer(stream) for stream in streams] == [0, 7, 8, 9]


def test_shapes_and_dtypes_are_checked_before_a_launch(emulation):
    out, rows = np.zeros((2, 4), np.float32), np.zeros(2, np.int64)
    with pytest.raises(InputError, match=r"rows: got int64 \[2\]; expected int32 \[n\]"):
        emulation.run(kernels.take_rows, out, out, rows)
    with pytest.raises(InputError, match=r"out: got float32 \[2, 4\]; expected float16 \['n', 4\]"):
        emulation.run(kernels.take_rows, out, out.astype(np.float16), rows)
    with pytest.raises(InputError, match=r"expected uint8 \[1, 2, 4\]"):
        emulation.run(kernels.support, out, np.zeros((1, 3, 2, 4), np.float32))
