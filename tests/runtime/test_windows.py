"""Windows as slices."""

from __future__ import annotations

import numpy as np
from foveate.runtime.manifest import GridTensor
from foveate.runtime.windows import Windows, whole_map
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.data())
def test_what_is_written_is_the_interior_of_what_was_read(
    cells: int, per: int, low: int, high: int, data: st.DataObject
):
    size = data.draw(st.integers((cells - 1) * per + 1, cells * per))
    start = data.draw(st.integers(0, cells - 1))
    end = data.draw(st.integers(start + 1, cells))
    tensor = GridTensor("t", (per, per))
    windows = Windows(np.array([[start, start, end, end]]), (low, low, high, high), (cells, cells))
    values = np.arange(size * size).reshape(1, 1, size, size)
    read = values[windows.reads(tensor, (size, size))[0]]
    place, crop = windows.writes(tensor, (size, size))[0]
    assert np.array_equal(read[crop], values[place])
    expected = values[..., start * per : end * per, start * per : end * per]
    assert np.array_equal(values[place], expected)


def test_windows_are_clamped_and_their_area_holds_the_halo():
    windows = Windows(np.array([[0, 0, 2, 2], [4, 4, 6, 8]]), (1, 1, 1, 1), (8, 8))
    assert windows.count == 2
    assert windows.area == 3 * 3 + 4 * 5


def test_a_window_that_grows_to_the_whole_map_is_whole():
    assert Windows(np.array([[1, 1, 7, 7]]), (1, 1, 1, 1), (8, 8)).whole
    assert whole_map((3, 5)).whole
    assert not Windows(np.array([[1, 1, 6, 7]]), (1, 1, 1, 1), (8, 8)).whole


def test_axes_of_the_other_layout():
    tensor = GridTensor("t", (2, 2), (1, 2))
    windows = Windows(np.array([[1, 0, 2, 2]]), (0, 0, 0, 0), (4, 4))
    assert np.zeros((1, 8, 7, 3))[windows.reads(tensor, (8, 7))[0]].shape == (1, 2, 4, 3)
