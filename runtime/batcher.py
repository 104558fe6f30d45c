"""Runs images that were submitted one by one in batches, on a thread that lives while there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from time import perf_counter

from .batching import Batching
from .errors import EngineError, QueueFullError
from .lanes import Job, Lanes
from .request import Request
from .result import Result

Advance = Callable[[int, Sequence[Request]], list[int | None]]  # see Route.advance
Answer = Callable[[Job], Result]


class Batcher:
    """Safe for concurrent callers. A future can be cancelled until its answer is there; the image then goes no further.

    `advance` and `answer` are called on one thread. What either raises is the answer of the image that it was raised
    for: a batch that fails runs again image by image."""

    def __init__(self, options: Batching, divisible: bool, advance: Advance, answer: Answer):
        """divisible: whether images may run together at all."""
        self._options, self._advance, self._answer = options, advance, answer
        self._changed = threading.Condition()
        self._lanes = Lanes(options.max_batch if divisible else 1)
        self._thread: threading.Thread | None = None
        self._working = False  # whether the thread will look for images again
        self._open = 0  # images that were submitted and are not done
        self._closed = self._cancelled = False

    def submit(self, job: Job, timeout: float | None) -> Future[Result]:
        """Waits at most `timeout` seconds for room, as long as it takes for None. Raises QueueFullError, and
        EngineError after `close`."""
        with self._changed:
            if not self._changed.wait_for(self._has_room, timeout):
                raise QueueFullError(
                    "submit",
                    got=f"{self._open} images on their way",
                    expected=f"fewer than {self._options.queue}",
                    fix="Try again later, wait with timeout=None, or load with batching=Batching(queue=…).",
                )
            if self._closed:
                raise closed("submit")
            if not self._working:
                self._thread = threading.Thread(target=self._work, name="foveate-batcher")
                self._thread.start()  # it looks when this lock is free
                self._working = True
            self._open += 1
            job.due = perf_counter() + self._options.max_delay_ms / 1e3
            self._lanes.add(job)
            self._changed.notify_all()
        return job.future

    def close(self, cancel: bool) -> None:
        """Waits until all images are done, or, with `cancel`, until those are that are running: the others' futures are
        cancelled. Takes no more."""
        with self._changed:
            self._closed, self._cancelled = True, self._cancelled or cancel
            self._changed.notify_all()
            thread = self._thread
        if thread is threading.current_thread():  # called by a future's callback
            self._work()
        elif thread is not None:
            thread.join()

    @property
    def waiting(self) -> int:
        """Images that were submitted and are not done."""
        return self._open

    def _has_room(self) -> bool:
        """A future's callback may always submit: nobody would make room while it waited."""
        callback = threading.current_thread() is self._thread
        return self._closed or callback or self._open < self._options.queue

    def _work(self) -> None:
        while jobs := self._next():
            self._run(jobs)

    def _next(self) -> list[Job]:
        with self._changed:
            while len(self._lanes):
                now = perf_counter()
                if jobs := self._lanes.take(float("inf") if self._closed else now):
                    return jobs
                self._changed.wait(self._lanes.due - now)
            self._working = False
            return []

    def _run(self, jobs: Sequence[Job]) -> None:
        jobs = [job for job in jobs if not self._is_cancelled(job)]
        if not jobs:
            return
        start = perf_counter()
        try:
            following = self._advance(jobs[0].part, [job.request for job in jobs])
        except BaseException as error:
            if len(jobs) == 1:
                self._finish(jobs[0], error)
            else:
                for job in jobs:
                    self._run([job])
            return
        now = perf_counter()
        done = []
        with self._changed:
            for job, part in zip(jobs, following, strict=True):
                job.busy_ms += (now - start) * 1e3
                if part is None:
                    done.append(job)
                    continue
                if job.part == 0:
                    job.due = now + self._options.max_delay_ms / 1e3
                job.part = part
                self._lanes.add(job)
        for job in done:
            self._finish(job)

    def _is_cancelled(self, job: Job) -> bool:
        if self._cancelled:
            job.future.cancel()
        if job.future.cancelled():
            self._finish(job, CancelledError())
            return True
        return False

    def _finish(self, job: Job, error: BaseException | None = None) -> None:
        result = None
        if error is None:
            try:
                result = self._answer(job)
            except BaseException as raised:
                error = raised
        with self._changed:
            self._open -= 1
            self._changed.notify_all()
        if not job.future.set_running_or_notify_cancel():
            return
        if result is not None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)


def closed(what: str) -> EngineError:
    return EngineError(
        what,
        got="a call after close()",
        expected="an open model",
        fix="Load the bundle again with foveate.load.",
    )
