"""Capsules of memory, given to and taken from torch and numpy: of the host here, for the layout is the same."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from foveate.runtime.device.dlpack import export, is_contiguous, take
from hypothesis import given
from hypothesis import strategies as st

HOST = (1, 0)
DTYPES = ["float32", "float16", "int64", "int32", "uint8", "bool"]


class Lent:
    """An array as one of another library, which knows whether it was given back."""

    def __init__(self, array: np.ndarray):
        self.array, self.back = array, 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return HOST

    def __dlpack__(self, **_: Any) -> Any:
        array = self.array
        return export(array.ctypes.data, array.shape, array.dtype, HOST, self.returned)

    def returned(self) -> None:
        self.back += 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_torch_reads_what_is_lent_and_gives_it_back(dtype, shape):
    torch = pytest.importorskip("torch")
    lent = Lent(np.arange(int(np.prod(shape))).reshape(shape).astype(dtype))
    tensor = torch.from_dlpack(lent)
    assert tensor.shape == shape and not lent.back
    np.testing.assert_array_equal(tensor.numpy(), lent.array)
    del tensor
    gc.collect()
    assert lent.back == 1


def test_numpy_shares_the_memory():
    lent = Lent(np.zeros(4, np.float32))
    shared = np.from_dlpack(lent)
    lent.array[1] = 5
    assert shared[1] == 5
    del shared
    assert lent.back == 1


def test_a_capsule_that_nobody_takes_is_given_back():
    lent = Lent(np.zeros(4, np.float32))
    capsule = lent.__dlpack__()
    del capsule
    assert lent.back == 1


@given(st.lists(st.integers(1, 4), max_size=4).map(tuple), st.sampled_from(DTYPES))
def test_what_is_taken_is_what_was_lent(shape, dtype):
    lent = Lent(np.ones(shape, dtype))
    taken = take(lent.__dlpack__())
    assert (taken.pointer, taken.shape, taken.dtype) == (lent.array.ctypes.data, shape, np.dtype(dtype))
    assert taken.contiguous and not lent.back
    taken.release()
    assert lent.back == 1


def test_a_tensor_of_torch_is_taken_with_its_offset_and_steps():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    rows, columns = take(tensor[1:].__dlpack__()), take(tensor[:, 1:].__dlpack__())
    assert rows.contiguous and rows.shape == (3, 6) and rows.pointer == tensor.data_ptr() + 24
    assert not columns.contiguous
    rows.release()
    columns.release()


def test_dtypes_that_numpy_lacks_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="16 bits"):
        take(torch.zeros(2, dtype=torch.bfloat16).__dlpack__())


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple))
def test_contiguous_is_what_numpy_says(shape):
    array = np.zeros(shape, np.float32)
    for view in (array, array.T, array[..., ::-1], array[..., :1]):
        steps = tuple(step // 4 for step in view.strides)
        assert is_contiguous(view.shape, steps) == view.flags.c_contiguous
