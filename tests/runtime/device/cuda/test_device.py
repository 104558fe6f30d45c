"""The CUDA device against that of the host, op by op: on an emulated GPU, and on a real one where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from foveate.runtime.device.cuda import CudaDevice
from foveate.runtime.device.device import Reach, TileGrid
from foveate.runtime.device.host import HostDevice
from foveate.runtime.device.recording import Recording
from foveate.runtime.errors import EngineError, InternalError
from foveate.runtime.manifest import Term

GRIDS = [
    TileGrid((7, 9), (2, 3), (1, 1), (1, 0)),
    TileGrid((8, 8), (8, 8), (0, 0), (0, 0)),
    TileGrid((5, 12), (1, 4), (2, 0), (0, 3)),
]
DTYPES = [np.float32, np.float16, np.int64, np.uint8]


def sparse(seed: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.integers(-9, 9, shape) * (random.random(shape) < 0.1)).astype(dtype)


def maps(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < 0.1).astype(np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_and_rows(device: CudaDevice, dtype):
    host, rows = HostDevice(), np.array([2, 0], np.int32)
    array, other = sparse(0, (4, 3, 5), dtype), sparse(1, (2, 3, 5), dtype)

    def run(on) -> list[np.ndarray]:
        source, target = on.put(array), on.put(array)
        on.put_rows(target, on.put(rows), on.put(other))
        made = [on.copy(source), on.copy(on.put(array[:1]), 3), on.take_rows(source, on.put(rows)), target]
        return on.get([*made, source.view((2, 3)), on.tally(source)])

    for mine, expected in zip(run(device), run(host), strict=True):
        assert mine.dtype == expected.dtype
        np.testing.assert_array_equal(mine, expected)


def test_maps(device: CudaDevice):
    mask, source = sparse(2, (2, 3, 8, 10), np.float32), maps(3, (2, 8, 10))
    terms = [Term("a", (1, 1), (2, 2), (-1, -1), (1, 1)), Term("b", (1, 1), (1, 1), (0, -2), (0, 2))]

    def run(on) -> list[np.ndarray]:
        of_mask = on.support(on.put(mask))
        reached = on.reach([Reach(of_mask, terms[0]), Reach(on.put(source), terms[1])], (8, 10))
        return on.get([of_mask, reached])

    for mine, expected in zip(run(device), run(HostDevice()), strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", GRIDS)
def test_windows(device: CudaDevice, grid: TileGrid, dtype):
    positions, first = (2, 1), 1
    size = tuple(cells * per for cells, per in zip(grid.cells, positions, strict=True))
    dirty, source = maps(4, (2, *size)), sparse(5, (2, 3, *size), dtype)
    dirty[0, 0, 0] = dirty[1, -1, -1] = 1
    reference = sparse(6, (1, 3, *size), dtype)

    def run(on) -> list[np.ndarray]:
        tiles = on.find_tiles([(on.put(dirty), positions)], grid)
        (count,) = on.get([tiles.count])
        n = int(count[0])
        again = on.find_tiles([(on.put(dirty), positions), (on.put(maps(7, (2, *grid.cells))), (1, 1))], grid)
        windows = on.take_windows(on.put(source), tiles, positions, n)
        shared = on.take_windows(on.put(reference), tiles, positions, n, first)
        target, restored = on.copy(on.put(reference), 2), on.put(source)
        on.put_windows(target, tiles, positions, windows)
        on.put_windows(target, tiles, positions, on.take_windows(on.put(source), tiles, positions, n), first)
        on.restore_tiles(restored, on.put(reference), tiles, positions, n + 3)
        places, more = on.get([tiles.places, again.count])
        return [count, more, places[:n], *on.get([windows, shared, target, restored])]

    for mine, expected in zip(run(device), run(HostDevice()), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_recorded_work_runs_again_on_what_is_there_by_then(device: CudaDevice):
    """A plan, windows that are written, and what restores them, each launched at once."""
    grid, host = GRIDS[0], HostDevice()
    reference = sparse(8, (1, 2, *grid.cells), np.float32)

    def work(on, dirty, target, source, made: list) -> None:
        tiles = on.find_tiles([(on.support(dirty), (1, 1)), (on.everywhere((2, *grid.cells)), (1, 1))], grid)
        some = on.find_tiles([(on.support(dirty), (1, 1))], grid)
        on.put_windows(target, some, (1, 1), on.take_windows(source, some, (1, 1), 2 * grid.count))
        made[:] = [tiles.count, some.count, target]

    def given(on, seed: int) -> tuple[Any, Any, Any]:
        mask, source = (sparse(n, (2, 2, *grid.cells), np.float32) for n in (seed, seed + 1))
        return on.put(mask), on.copy(on.put(reference), 2), on.put(source)

    made: list = []
    mine = given(device, 0)
    recording = Recording(device, lambda: work(device, *mine, made), device.capture)
    for seed in (20, 30, 40):
        theirs, expected = given(host, seed), []
        work(host, *theirs, expected)
        for target, source in zip(mine, given(device, seed), strict=True):
            device.copy_into(target, source)
        others = [device.put(np.full(400, 7, np.float32)) for _ in range(9)]  # take what memory is free
        recording.launch()
        for found, value in zip(device.get(made), host.get(expected), strict=True):
            np.testing.assert_array_equal(found, value)
        assert all((array == 7).all() for array in device.get(others))


def test_what_was_put_may_be_changed_at_once(device: CudaDevice):
    """Many copies of few pinned buffers, none waited for."""
    array, made = np.zeros((1 << 20,), np.float32), []
    for number in range(6):
        array[:] = number
        made.append(device.put(array))
    for number, found in enumerate(device.get(made)):
        assert (found == number).all()


def test_pinned_memory_is_used_again(emulated_device: CudaDevice, library):
    device = emulated_device
    for _ in range(5):
        np.testing.assert_array_equal(device.get([device.put(np.ones(100, np.float32))])[0], 1)
    assert library.calls.count("cuMemHostAlloc") == 2  # one there, one back


def test_nothing_is_left_when_the_arrays_are_gone(emulated_device: CudaDevice, library):
    device = emulated_device
    array = device.put(np.ones((2, 3), np.float32))
    view = array.view((3,))
    del array
    np.testing.assert_array_equal(device.get([view])[0], [1, 1, 1])
    del view
    device.queue.wait()
    assert not library.live


def test_one_wait_reads_them_all(emulated_device: CudaDevice, library):
    arrays = [emulated_device.put(np.arange(n, dtype=dtype)) for n in (0, 1, 7) for dtype in DTYPES]
    library.calls.clear()
    for found, array in zip(emulated_device.get(arrays), arrays, strict=True):
        np.testing.assert_array_equal(found, np.arange(array.shape[0], dtype=array.dtype))
    assert library.calls.count("cuStreamSynchronize") == 1


def test_what_failed_is_told_when_it_is_waited_for(emulated_device: CudaDevice, library):
    array = emulated_device.put(np.ones(3, np.float32))
    library.fail["cuStreamSynchronize"] = 700
    with pytest.raises(EngineError, match="ILLEGAL_ADDRESS"):
        emulated_device.get([array])


def test_a_kernel_that_cannot_be_launched_is_named(emulated_device: CudaDevice):
    source = emulated_device.put(np.ones((2, 3), np.float32))
    with pytest.raises(InternalError, match="2 images are to be repeated"):
        emulated_device.copy(source, 4)
    with pytest.raises(InternalError, match="view"):
        source.view((7,))


def test_its_facts(device: CudaDevice):
    assert device.name == "cuda:0" and device.memory >= 1 << 30
    assert device.fingerprint["compute"] == device.compute and device.compute.startswith("sm")
    assert all(device.fingerprint.values()) and device.fingerprint["driver"].count(".") == 1
    start, end = device.mark(), device.mark()
    assert device.elapsed_ms(start, end) >= 0


def test_scratch_grows_and_stays(emulated_device: CudaDevice):
    small = emulated_device.scratch(10).pointer
    assert emulated_device.scratch(5).pointer == small
    assert emulated_device.scratch(100).nbytes == 100 == emulated_device.scratch(7).nbytes
