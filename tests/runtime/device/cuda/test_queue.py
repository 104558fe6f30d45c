"""The queue of a GPU: memory in its order, events, captured work, contexts, and what fails."""

from __future__ import annotations

import ctypes
import gc
import threading

import pytest
from foveate.runtime.device.array import Memory
from foveate.runtime.device.driver import Driver
from foveate.runtime.device.queue import Queue
from foveate.runtime.errors import EngineError

from .fake_driver import CAPTURE_UNSUPPORTED, CONTEXT, JUNK, OTHER_CONTEXT, FakeLibrary


@pytest.fixture
def library() -> FakeLibrary:
    return FakeLibrary()


@pytest.fixture
def queue(library) -> Queue:
    return Queue(Driver(library), 0)


def read(pointer: int) -> int:
    return ctypes.c_ubyte.from_address(pointer).value


def test_nothing_runs_before_it_is_waited_for(library, queue):
    memory = Memory(queue, queue.allocate(16))
    queue.fill(memory.pointer, 0, 16)
    event = queue.mark()
    assert read(memory.pointer) == JUNK and not event.done()
    event.wait()
    assert read(memory.pointer) == 0 and event.done()


def test_memory_is_freed_behind_the_work_that_uses_it(library, queue):
    source, target = Memory(queue, queue.allocate(8)), Memory(queue, queue.allocate(8))
    queue.fill(source.pointer, 0, 8)
    queue.copy(target.pointer, source.pointer, 8)
    del source
    assert len(library.live) == 2
    queue.wait()
    assert read(target.pointer) == 0 and list(library.live) == [target.pointer]


def test_a_gpu_without_pools(monkeypatch):
    library = FakeLibrary(pools=False)
    queue = Queue(Driver(library), 0)
    memory = Memory(queue, queue.allocate(8))
    del memory
    assert not library.live and "cuMemFree_v2" in library.calls and "cuMemPoolCreate" not in library.calls


def test_errors_have_cudas_name_and_text(library, queue):
    library.total = 100
    with pytest.raises(
        EngineError, match=r"CUDA_ERROR_OUT_OF_MEMORY \(2\): what it means(.|\n)*smaller batches"
    ):
        queue.allocate(101)
    library.fail["cuStreamSynchronize"] = 700
    with pytest.raises(EngineError, match=r"ILLEGAL_ADDRESS(.|\n)*start it again"):
        queue.wait()
    del library.cuMemsetD8Async
    with pytest.raises(EngineError, match=r"no function cuMemsetD8Async(.|\n)*newer driver"):
        Queue(Driver(library), 0).fill(0, 0, 1)


def test_memory_that_is_yet_to_be_given_back_is_waited_for(library, queue):
    library.total = 100
    memory = Memory(queue, queue.allocate(60))
    del memory
    assert queue.allocate(60)
    with pytest.raises(EngineError, match="OUT_OF_MEMORY"):
        queue.allocate(60)


def test_captured_work_runs_when_it_is_launched(library, queue):
    memory = Memory(queue, queue.allocate(4))
    graph = queue.capture(lambda: queue.fill(memory.pointer, 0, 4))
    queue.wait()
    assert read(memory.pointer) == JUNK
    for _ in range(2):
        ctypes.memset(memory.pointer, 1, 4)
        graph.launch()
        queue.wait()
        assert read(memory.pointer) == 0
    assert len(library.graphs) == 1
    del graph
    assert not library.graphs


def test_what_is_freed_during_a_capture_is_no_part_of_it(library, queue):
    kept = [Memory(queue, queue.allocate(4))]
    graph = queue.capture(lambda: kept.clear())
    assert library.graphs[next(iter(library.graphs))] == []
    queue.wait()
    assert not library.live
    graph.launch()
    queue.wait()


def test_other_threads_are_no_part_of_a_capture(library, queue):
    """One that orders another stream waits for the end; what one frees is freed then."""
    source, target = Memory(queue, queue.allocate(8)), Memory(queue, queue.allocate(8))
    pointer, user, threads = source.pointer, 77, []
    library.streams[user] = []

    def work() -> None:
        nonlocal source
        queue.copy(target.pointer, pointer, 8)
        source = None
        for act in (lambda: queue.lead(user), lambda: queue.free(dropped)):
            threads.append(threading.Thread(target=act))
            threads[-1].start()
        threads[1].join(5)
        assert threads[0].is_alive() and not threads[1].is_alive()
        assert len(library.captured) == 1 and not library.streams[user]

    dropped = queue.allocate(8)
    graph = queue.capture(work)
    threads[0].join(5)
    assert library.streams[user] and not threads[0].is_alive()
    queue.wait()
    assert pointer not in library.live and dropped not in library.live
    assert gc.isenabled() and graph is not None


def test_what_is_freed_while_another_thread_is_at_it_goes_with_the_next_memory(library, queue):
    dropped = queue.allocate(8)
    with queue.between_captures():
        thread = threading.Thread(target=lambda: queue.free(dropped))
        thread.start()
        thread.join(5)
    assert not thread.is_alive()
    queue.wait()
    assert dropped in library.live
    Memory(queue, queue.allocate(8))
    queue.wait()
    assert dropped not in library.live


def test_a_capture_that_fails_leaves_the_stream_as_it_was(library, queue):
    def fail():
        raise KeyError("work")

    with pytest.raises(KeyError):
        queue.capture(fail)
    library.fail["cuGraphInstantiateWithFlags"] = CAPTURE_UNSUPPORTED
    with pytest.raises(EngineError, match="900"):
        queue.capture(lambda: None)
    assert library.captured is None and not library.graphs
    memory = Memory(queue, queue.allocate(4))
    queue.fill(memory.pointer, 0, 4)
    queue.wait()
    assert read(memory.pointer) == 0


def test_the_context_of_another_gpu_comes_back(library, queue):
    assert library.current == CONTEXT  # there was none
    library.current = OTHER_CONTEXT
    with queue.current():
        assert library.current == CONTEXT
        with queue.current():
            assert library.current == CONTEXT
    assert library.current == OTHER_CONTEXT


def test_it_ends_with_the_last_that_was_made_of_it(library):
    queue = Queue(Driver(library), 0)
    memory = Memory(queue, queue.allocate(4))
    del queue
    gc.collect()
    assert not library.ended
    del memory
    gc.collect()
    assert library.ended == 1 and not library.live


def test_marks_give_the_time_between_them(queue):
    start, end = queue.mark(timing=True), queue.mark(timing=True)
    assert end.ms_since(start) == end.handle - start.handle


def test_what_is_retired_waits_for_the_queue(queue):
    gone: list[bool] = []
    queue.fill(Memory(queue, queue.allocate(4)).pointer, 0, 4)
    queue.retire(lambda: gone.append(True))
    queue.allocate(4)
    assert not gone
    queue.wait()
    assert gone


def test_garbage_may_be_collected_in_any_order(library):
    queue = Queue(Driver(library), 0)
    cycle: list[object] = [queue, Memory(queue, queue.allocate(4)), queue.mark()]
    cycle.append(cycle)
    del queue, cycle
    gc.collect()
    assert library.ended == 1 and not library.live and not library.events
    assert library.calls.index("cuStreamDestroy_v2") > library.calls.index("cuMemFreeAsync")
