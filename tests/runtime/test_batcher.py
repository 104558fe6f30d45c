"""The batcher's promises, with programs that the tests hold in their hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait

import numpy as np
import pytest
from foveate.runtime import Batching
from foveate.runtime.batcher import Batcher
from foveate.runtime.errors import EngineError, InputError, QueueFullError
from foveate.runtime.inputs import Batch
from foveate.runtime.lanes import Job
from foveate.runtime.request import Request
from foveate.runtime.result import Result

WAIT = 30  # seconds that no test takes
CHOICES: dict[str, np.ndarray] = {}


class Program:
    """Parts that each image goes through; it counts as it goes. While `gate` is closed, runs do not end."""

    def __init__(self, parts: int = 1):
        self.parts, self.batches = parts, []
        self.running, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def advance(self, part: int, requests: Sequence[Request]) -> list[int | None]:
        values = [float(request.tensors["x"][0, 0]) for request in requests]
        self.batches.append((part, values))
        self.running.set()
        assert self.gate.wait(WAIT)
        if any(np.isnan(values)):
            raise ArithmeticError(f"of {values}")
        return [None if part + 1 == self.parts else part + 1] * len(requests)

    def answer(self, job: Job) -> Result:
        return Result({"y": job.request.tensors["x"] + 1})


def job(value: float, size: int = 1) -> Job:
    feeds = {"x": np.full((1, size), value)}
    return Job(Batch(feeds, 1, {}, False), Request(dict(feeds), 1, 1, "auto", CHOICES), 0.0)


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def make(program: Program) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(**options) -> Batcher:
        batcher = Batcher(Batching(**options), True, program.advance, program.answer)
        made.append(batcher)
        return batcher

    yield make
    program.gate.set()
    for batcher in made:
        batcher.close(cancel=True)
    assert "foveate-batcher" not in [thread.name for thread in threading.enumerate()]


def hold(program: Program, batcher: Batcher) -> Future[Result]:
    """Has an image run until the gate opens."""
    program.running.clear()
    program.gate.clear()
    first = batcher.submit(job(-1, size=9), None)
    assert program.running.wait(WAIT)
    return first


def values(futures: Sequence[Future[Result]]) -> list[float]:
    return [float(future.result(WAIT)["y"][0, 0]) for future in futures]


def test_what_queued_up_runs_together_by_size(program: Program, make: Callable[..., Batcher]):
    batcher = make(max_batch=3)
    hold(program, batcher)
    futures = [batcher.submit(job(i, size=1 + i % 2), None) for i in range(8)]
    program.gate.set()
    assert values(futures) == [i + 1 for i in range(8)]
    assert sorted(program.batches[1:]) == [(0, [0, 2, 4]), (0, [1, 3, 5]), (0, [6]), (0, [7])]


def test_a_full_batch_does_not_wait_and_a_due_image_is_not_kept(
    program: Program, make: Callable[..., Batcher]
):
    batcher = make(max_batch=2, max_delay_ms=20)
    assert values([batcher.submit(job(5), None)]) == [6]
    patient = make(max_batch=2, max_delay_ms=1e9)
    assert values([patient.submit(job(i), None) for i in range(2)]) == [1, 2]
    assert program.batches == [(0, [5]), (0, [0, 1])]


def test_images_of_two_batches_meet_behind_the_first_part(
    program: Program, make: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
):
    """Those of odd value leave at once."""

    def advance(part: int, requests: Sequence[Request]) -> list[int | None]:
        Program.advance(program, part, requests)
        return [1 if part == 0 and request.tensors["x"][0, 0] % 2 == 0 else None for request in requests]

    monkeypatch.setattr(program, "advance", advance)
    batcher = make(max_batch=4, max_delay_ms=1e9)
    program.gate.clear()
    futures = [batcher.submit(job(i), None) for i in range(4)]
    assert program.running.wait(WAIT)
    futures += [batcher.submit(job(i), None) for i in range(4, 8)]
    program.gate.set()
    assert values(futures) == list(range(1, 9))
    assert program.batches == [(0, [0, 1, 2, 3]), (0, [4, 5, 6, 7]), (1, [0, 2, 4, 6])]


def test_a_failing_image_fails_alone(program: Program, make: Callable[..., Batcher]):
    batcher = make(max_batch=4)
    hold(program, batcher)
    futures = [batcher.submit(job(v), None) for v in (1, np.nan, 3)]
    program.gate.set()
    assert values([futures[0], futures[2]]) == [2, 4]
    with pytest.raises(ArithmeticError, match=r"of \[nan\]"):
        futures[1].result(WAIT)
    assert values([batcher.submit(job(7), None)]) == [8]


def test_an_answer_that_fails_is_its_images_own(program: Program, make: Callable[..., Batcher], monkeypatch):
    def answer(of: Job) -> Result:
        if of.request.tensors["x"][0, 0] == 2:
            raise SystemExit("no answer")  # whatever it is, nobody is left waiting
        return Program.answer(program, of)

    monkeypatch.setattr(program, "answer", answer)
    batcher = make()
    futures = [batcher.submit(job(v), None) for v in (1, 2, 3)]
    assert values([futures[0], futures[2]]) == [2, 4]
    with pytest.raises(SystemExit):
        futures[1].result(WAIT)


def test_a_full_queue_holds_callers_up(program: Program, make: Callable[..., Batcher]):
    batcher = make(queue=2)
    hold(program, batcher)
    batcher.submit(job(1), None)
    for timeout in (0.0, 0.01):
        with pytest.raises(QueueFullError, match="2 images on their way; expected fewer than 2"):
            batcher.submit(job(2), timeout)
    late: list[Future[Result]] = []
    caller = threading.Thread(target=lambda: late.append(batcher.submit(job(3), None)))
    caller.start()
    program.gate.set()
    caller.join(WAIT)
    assert values(late) == [4]
    assert [v for _, batch in program.batches for v in batch] == [-1, 1, 3]


def test_a_cancelled_image_is_not_run(program: Program, make: Callable[..., Batcher]):
    program.parts = 2
    batcher = make()
    first = hold(program, batcher)
    waiting, other = (batcher.submit(job(v), None) for v in (1, 2))
    assert waiting.cancel() and first.cancel()
    program.gate.set()
    assert values([other]) == [3]
    assert wait([waiting, first], WAIT).not_done == set()  # those who wait for it are told
    # The first went no further either.
    assert [v for _, batch in program.batches for v in batch] == [-1, 2, 2]
    assert batcher.waiting == 0


def test_closing_finishes_what_waits(program: Program, make: Callable[..., Batcher]):
    batcher = make(max_delay_ms=1e9)
    futures = [batcher.submit(job(i), None) for i in range(3)]
    batcher.close(cancel=False)
    assert [future.done() for future in futures] == [True] * 3 and values(futures) == [1, 2, 3]
    with pytest.raises(EngineError, match=r"close\(\)"):
        batcher.submit(job(1), None)
    batcher.close(cancel=False)


def test_closing_cancels_what_waits(program: Program, make: Callable[..., Batcher]):
    batcher = make()
    first = hold(program, batcher)
    waiting = [batcher.submit(job(i), None) for i in range(3)]
    closing = threading.Thread(target=batcher.close, args=(True,))
    closing.start()
    while not batcher._closed:
        time.sleep(1e-3)
    program.gate.set()
    closing.join(WAIT)
    assert values([first]) == [0]
    assert all(future.cancelled() for future in waiting) and len(program.batches) == 1


def test_closing_wakes_who_waits_for_room(program: Program, make: Callable[..., Batcher]):
    batcher = make(queue=1)
    hold(program, batcher)
    raised: list[BaseException] = []

    def submit() -> None:
        try:
            batcher.submit(job(1), None)
        except EngineError as error:
            raised.append(error)

    caller = threading.Thread(target=submit)
    caller.start()
    closing = threading.Thread(target=batcher.close, args=(False,))
    closing.start()
    caller.join(WAIT)
    program.gate.set()
    closing.join(WAIT)
    assert len(raised) == 1 and not closing.is_alive()


def test_callbacks_may_submit_and_close(program: Program, make: Callable[..., Batcher]):
    """They run on the batcher's own thread, which can wait neither for room nor for itself."""
    batcher = make(queue=1)
    more: list[Future[Result]] = []
    closed = threading.Event()

    def resubmit(_: Future[Result]) -> None:
        more.extend(batcher.submit(job(v), None) for v in (5, 6))
        more[-1].add_done_callback(lambda _: (batcher.close(cancel=False), closed.set()))

    first = hold(program, batcher)
    first.add_done_callback(resubmit)
    program.gate.set()
    assert closed.wait(WAIT) and values(more) == [6, 7]


def test_no_thread_lives_without_images(program: Program, make: Callable[..., Batcher]):
    batcher = make()
    for value in range(3):
        assert values([batcher.submit(job(value), None)]) == [value + 1]
        assert batcher._thread is not None
        batcher._thread.join(WAIT)
        assert not batcher._thread.is_alive()


def test_many_callers(program: Program, make: Callable[..., Batcher]):
    program.parts = 3
    batcher = make(max_batch=4, max_delay_ms=0.1, queue=8)
    found: dict[int, float] = {}

    def call(start: int) -> None:
        for value in range(start, start + 40):
            found[value] = values([batcher.submit(job(value, size=1 + value % 3), None)])[0]

    callers = [threading.Thread(target=call, args=(100 * i,)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT)
    assert found == {100 * i + n: 100 * i + n + 1 for i in range(6) for n in range(40)}


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"queue": 1.5}, {"max_delay_ms": -1}, {"max_delay_ms": "5"}]
)
def test_options_that_are_none(options):
    with pytest.raises(InputError, match=f"Batching.{next(iter(options))}"):
        Batching(**options)
