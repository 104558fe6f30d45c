"""What a stage's run and a batch's division cost here, learnt from runs: whether images are taken out of a batch."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from typing import Any

from .manifest import ExitStage

Shapes = tuple[tuple[int, ...], ...]

_REMEMBERED = 1024
_MS_PER_BYTE = 5e-7  # 2 GB/s, until a division was seen
_DIVISION_MS = 0.05  # of each division, whatever it copies


class ExitCosts:
    """Safe for concurrent callers. The least time of each counts: what a busy machine adds is no property of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._image_ms: dict[Hashable, float] = {}
        self._ms_per_byte = _MS_PER_BYTE

    def division_pays(self, stage: ExitStage, held: Mapping[str, Any], leaving: int, copied: int) -> bool:
        """Whether copying that many bytes, of the images that go on, costs less than running the stage on `leaving`
        images that do not need it. Yes for a stage that has not run at this size."""
        image_ms = self._image_ms.get(_key(stage, shapes_of(stage, held)))
        return image_ms is None or leaving * image_ms > _DIVISION_MS + copied * self._ms_per_byte

    def saw_stage(self, stage: ExitStage, shapes: Shapes, ms: float) -> None:
        """`shapes`: of the stage's inputs."""
        key, image_ms = _key(stage, shapes), ms / shapes[0][0]
        with self._lock:
            if len(self._image_ms) >= _REMEMBERED:
                self._image_ms.clear()
            self._image_ms[key] = min(image_ms, self._image_ms.get(key, image_ms))

    def saw_division(self, copied: int, ms: float) -> None:
        with self._lock:
            self._ms_per_byte = min(self._ms_per_byte, ms / max(1, copied))


def shapes_of(stage: ExitStage, held: Mapping[str, Any]) -> Shapes:
    return tuple(held[name].shape for name in stage.inputs)


def _key(stage: ExitStage, shapes: Shapes) -> Hashable:
    """The stage, at the size of one image."""
    return stage.file, *(shape[1:] for shape in shapes)
