"""One batch on its way on a device: what is asked of it and read back together, and when its phases began and ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from .device import Device, DeviceArray

Answer = Callable[[list[np.ndarray]], None]


@dataclass
class Dispatch:
    """`lent`: ids of arrays that are not the request's own."""

    device: Device
    lent: set[int] = field(default_factory=set)
    _asked: list[tuple[Sequence[DeviceArray], Answer]] = field(default_factory=list)
    _spans: list[tuple[Any, Any, Callable[[float], None]]] = field(default_factory=list)

    def ask(self, arrays: Sequence[DeviceArray], answer: Answer) -> None:
        """`answer` is given what these hold when something is read next; what it raises ends the request."""
        self._asked.append((arrays, answer))

    def read(self, wanted: Sequence[DeviceArray] = ()) -> list[np.ndarray]:
        """What these hold, read in one go with all that was asked. Waits, but if there is nothing to read."""
        asked, self._asked = self._asked, []
        arrays = [*wanted, *(array for arrays, _ in asked for array in arrays)]
        if not arrays:
            return []
        found = iter(self.device.get(arrays))
        answers = list(islice(found, len(wanted)))
        for arrays, answer in asked:
            answer(list(islice(found, len(arrays))))
        return answers

    def saw(self, start: Any, told: Callable[[float], None]) -> None:
        """What has been queued since the mark `start` is timed."""
        self._spans.append((start, self.device.mark(), told))

    def finish(self) -> None:
        """Waits until all is done, and tells the times."""
        for start, end, told in self._spans:
            told(self.device.elapsed_ms(start, end))
