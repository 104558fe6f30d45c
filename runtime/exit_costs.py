"""What a stage's run and a batch's division cost here, learnt from runs: whether images are taken out of a batch."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping

import numpy as np

from .manifest import ExitStage

_REMEMBERED = 1024
_MS_PER_BYTE = 5e-7  # 2 GB/s, until a division was seen
_DIVISION_MS = 0.05  # of each division, whatever it copies


class ExitCosts:
    """Safe for concurrent callers. The least time of each counts: what a busy machine adds is no property of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._image_ms: dict[Hashable, float] = {}
        self._ms_per_byte = _MS_PER_BYTE

    def division_pays(
        self, stage: ExitStage, held: Mapping[str, np.ndarray], leaving: int, copied: int
    ) -> bool:
        """Whether copying that many bytes, of the images that go on, costs less than running the stage on `leaving`
        images that do not need it. Yes for a stage that has not run at this size."""
        image_ms = self._image_ms.get(_key(stage, held))
        return image_ms is None or leaving * image_ms > _DIVISION_MS + copied * self._ms_per_byte

    def saw_stage(self, stage: ExitStage, held: Mapping[str, np.ndarray], ms: float) -> None:
        key, image_ms = _key(stage, held), ms / len(held[stage.inputs[0]])
        with self._lock:
            if len(self._image_ms) >= _REMEMBERED:
                self._image_ms.clear()
            self._image_ms[key] = min(image_ms, self._image_ms.get(key, image_ms))

    def saw_division(self, copied: int, ms: float) -> None:
        with self._lock:
            self._ms_per_byte = min(self._ms_per_byte, ms / max(1, copied))


def _key(stage: ExitStage, held: Mapping[str, np.ndarray]) -> Hashable:
    """The stage, at the size of one image."""
    return stage.file, *(held[name].shape[1:] for name in stage.inputs)
