"""Timing by a device's own events: host and device work at the same time, so that the wall clock sees neither."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ...runtime.device.device import Device
from ..timers import Spent
from .watch import Watch

T = TypeVar("T")


class DeviceTimer:
    """`Spent.wall` is from the first to the last of what a call queues on the device's stream, with what the device
    waited for the host in between; `waited` gives the ms that the host waited for the device so far."""

    def __init__(self, device: Device, watch: Watch, waited: Callable[[], float]):
        self._device, self._watch, self._waited = device, watch, waited

    def settle(self, run: Callable[[], object]) -> None:
        def run_and_wait() -> None:
            run()
            self.wait()

        self._watch.settle(run_and_wait)

    def time(self, call: Callable[[], T]) -> tuple[T, Spent]:
        self.wait()
        waited, cpu, start = self._waited(), time.process_time(), time.perf_counter()
        begin = self._device.mark()
        answer = call()
        end = self._device.mark()
        host, used = time.perf_counter() - start, time.process_time() - cpu
        enqueue = 1e3 * host - (self._waited() - waited)
        return answer, Spent(self._device.elapsed_ms(begin, end), 1e3 * used, max(0.0, enqueue))

    def accept(self) -> bool:
        return self._watch.accept()

    def wait(self) -> None:
        """Until all that is queued is done."""
        mark = self._device.mark()
        self._device.elapsed_ms(mark, mark)
