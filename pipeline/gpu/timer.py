"""Timing by the devices' own events: host and device work at the same time, so that the host's clock sees neither."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ...runtime.device.device import Device
from ..timers import Spent
from .watch import Watch

T = TypeVar("T")


class DeviceTimer:
    """`Spent.wall` is from the begin of a call to the end of the last work that it queued, as the device's clock has
    it, with what the device waited for the host in between. `devices`: the queues that contenders use, of one GPU."""

    def __init__(self, watch: Watch):
        self._watch, self.devices = watch, list[Device]()

    def settle(self, run: Callable[[], object]) -> None:
        def run_and_wait() -> None:
            run()
            self.wait()

        self._watch.settle(run_and_wait)

    def time(self, call: Callable[[], T]) -> tuple[T, Spent]:
        self.wait()
        waited, cpu = self._waited(), time.process_time()
        begins = [device.mark() for device in self.devices]
        start = time.perf_counter()
        answer = call()
        host = 1e3 * (time.perf_counter() - start)
        ends = [device.mark() for device in self.devices]
        enqueue, used = host - (self._waited() - waited), 1e3 * (time.process_time() - cpu)
        marks = zip(self.devices, begins, ends, strict=True)
        wall = max(device.elapsed_ms(begin, end) for device, begin, end in marks)
        return answer, Spent(wall, used, max(0.0, enqueue))

    def accept(self) -> bool:
        return self._watch.accept()

    def wait(self) -> None:
        """Until all that is queued is done."""
        for device in self.devices:
            mark = device.mark()
            device.elapsed_ms(mark, mark)

    def _waited(self) -> float:
        return sum(device.waited_ms for device in self.devices)
