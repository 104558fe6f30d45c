"""A video through any program of dense maps: changed regions run as crops, and are pasted into the previous answer.

Nothing is asked of the program's ops. What a global op (pooling, attention) sees of a crop is not what it sees of the
frame, so an answer is an estimate, and `audit` measures how far off it is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from .call_times import CallTimes
from .changes import Changes, Seen
from .crops import Crops
from .errors import InputError
from .inputs import Batch, one_image
from .manifest import CropPlan, Manifest, Pair
from .policy import StreamPolicy
from .rectangles import Rects, any_pool, cover
from .region_policy import RegionPolicy
from .result import Result, Timing, new_timing

_BLOCK = 8  # pixels of the side of the blocks that rectangles are made of

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # the program on one image; new arrays by output name


@dataclass(frozen=True)
class RegionError:
    """An answer of pasted crops against the whole frame's: mean and largest |difference| in the output's units, and the
    mean as a share of the output's range (max − min). Of integers, such as labels: the share that differ."""

    mean: float
    max: float
    share: float


class RegionStream:
    """The state of one video; made by `Model.stream(mode="regions")`. Call it with one frame after the other; one
    caller at a time.

    A frame with another resolution begins anew, and so does the frame after an error.

    changed: bool [height, width], what of the last frame counted as changed; None where that was all of it.
    work, full_work: pixels that the program ran on for the last frame, and those of a whole one.
    reason: why the last frame was computed whole: "first", "audit", "refresh", "scene cut", "drift", "slower"; or "".
    frames: since one was computed whole.
    error: of the last audit, by output name.
    """

    def __init__(
        self,
        plan: CropPlan,
        least: Pair,
        read: Callable[[Any], Batch],
        run: Run,
        policy: RegionPolicy,
        limit: int,
    ):
        """least: the smallest height and width that the program runs at. limit: of `nbytes`."""
        self._plan, self._read, self._run, self.policy, self._limit = plan, read, run, policy, limit
        self._least = max(least[0], policy.side), max(least[1], policy.side)
        self._lock = threading.Lock()
        self.reset()

    def __call__(self, frame: Any) -> Result:
        """One frame: what `Model.__call__` takes, with one image. Raises InputError before the state is touched."""
        start = perf_counter()
        batch = one_image(self._read(frame))
        timing = new_timing()
        with self._lock:
            try:
                self._advance(batch.feeds[self._plan.image.name], timing)
            except BaseException:
                self.reset()
                raise
            outputs = batch.unpad({name: value.copy() for name, value in self._outputs.items()})
            strategy = "dense" if self.reason else "regions"
        timing["total"] = (perf_counter() - start) * 1e3
        return Result(outputs, timing=timing, strategies={"stream": (strategy,)})

    def reset(self) -> None:
        """Forgets the video: the next frame is computed whole."""
        self.frames, self.work, self.full_work = 0, 0.0, 0.0
        self.changed: np.ndarray | None = None
        self.reason = ""
        self.error: dict[str, RegionError] = {}
        self._changes: Changes | None = None
        self._outputs: dict[str, np.ndarray] = {}
        self._times = CallTimes()

    @property
    def nbytes(self) -> int:
        """Of the state; 0 before the first frame."""
        kept = sum(value.nbytes for value in self._outputs.values())
        return kept + (self._changes.last.nbytes if self._changes is not None else 0)

    def _advance(self, image: np.ndarray, timing: Timing) -> None:
        start = perf_counter()
        planes = _planes(image, self._plan.image.axes)
        if self._changes is None or self._changes.last.shape != planes.shape:
            self.reset()
            self._changes = Changes(self.policy, planes)
        seen = self._changes.look(planes) if self.frames else None
        self.reason, crops = self._decide(seen, planes.shape[2:])
        timing["plan"] = (perf_counter() - start) * 1e3
        self.work, self.full_work = 0.0, float(planes[0, 0].size)
        if crops is not None:
            self._run_crops(image, crops, timing)
            if 0 < self.policy.audit <= self.frames:
                self.reason = "audit"
        if self.reason:
            self._run_whole(image, timing)
        if seen is None or crops is None or self.reason:
            self._changes.accept(planes, None)
            self.frames, self.changed = 1, None
        else:
            self._changes.accept(planes, replace(seen, dirty=crops.inside(seen.dirty.shape)))
            self.frames, self.changed = self.frames + 1, seen.dirty

    def _decide(self, seen: Seen | None, size: Pair) -> tuple[str, Crops | None]:
        """Why the frame is to be computed whole, or the crops of what changed."""
        policy = self.policy
        if seen is None:
            return "first", None
        if 0 < policy.refresh <= self.frames:
            return "refresh", None
        if seen.moved > policy.cut:
            return "scene cut", None
        if seen.drift > policy.drift:
            return "drift", None
        crops = Crops(self._plan, policy, self._least, self._cover(seen.dirty), size)
        share = sum(crops.areas) / seen.dirty.size
        if policy.fallback and not self._times.pays(len(crops.areas), share):
            return "slower", None
        return "", crops

    def _cover(self, dirty: np.ndarray) -> Rects:
        """Rectangles, in pixels, that hold all that is dirty."""
        active = any_pool(dirty, (_BLOCK, _BLOCK))
        # Growing a rectangle to whole cells adds half of one at each side in the mean.
        rows, columns = (
            round((self.policy.margin + cell / 2) / _BLOCK) for cell in self._plan.image.positions
        )
        # What a crop costs at least, every crop is said to cost more: two near ones then become one.
        fixed = self._times.fixed_share * active.size + math.prod(self._least) / _BLOCK**2
        rects = cover(active, fixed=fixed, halo=(rows, columns, rows, columns))
        return np.minimum(rects * _BLOCK, dirty.shape * 2)

    def _run_crops(self, image: np.ndarray, crops: Crops, timing: Timing) -> None:
        for number, part in enumerate(crops.images):
            start = perf_counter()
            answer = self._run(image[part])
            ran = perf_counter()
            crops.paste(number, answer, self._outputs)
            end = perf_counter()
            timing["compute"] += (ran - start) * 1e3
            timing["scatter"] += (end - ran) * 1e3
            self._times.saw_crop(crops.areas[number] / self.full_work, (end - start) * 1e3)
        self.work += sum(crops.areas)

    def _run_whole(self, image: np.ndarray, timing: Timing) -> None:
        start = perf_counter()
        outputs = dict(self._run(image))
        timing["dense"] = (perf_counter() - start) * 1e3
        self._times.saw_whole(timing["dense"])
        if self.reason == "audit":
            self.error = {name: measure_error(self._outputs[name], value) for name, value in outputs.items()}
        self._outputs = outputs
        self.work += self.full_work
        if self.nbytes > self._limit:
            raise InputError(
                "frame",
                got=f"{list(image.shape)}, whose stream keeps {self.nbytes / 2**20:.1f} MiB",
                expected=f"at most {self._limit / 2**20:.1f} MiB",
                fix="Load with a larger max_state_bytes, or pass smaller frames.",
            )


def measure_error(found: np.ndarray, wanted: np.ndarray) -> RegionError:
    """Of two arrays of one shape; the mean is over all elements."""
    if not np.issubdtype(wanted.dtype, np.floating):
        differ = float((found != wanted).mean())
        return RegionError(differ, float(differ > 0), differ)
    difference = np.abs(found.astype(np.float64) - wanted)
    mean, extent = float(difference.mean()), float(wanted.max()) - float(wanted.min())
    return RegionError(mean, float(difference.max()), mean / extent if extent else float(mean > 0))


def open_regions(
    manifest: Manifest,
    read: Callable[[Any], Batch],
    run: Run,
    policy: StreamPolicy,
    options: Mapping[str, Any],
    limit: int,
) -> RegionStream:
    """A stream by `policy` with `options` changed. Raises InputError where the program cannot run on crops, or where
    an option is none of mode "regions"."""
    if manifest.crops is None:
        raise InputError(
            f"regions of {manifest.name!r}",
            got=manifest.crops_refused or "a bundle from before there were regions",
            expected="one image input of any size, and outputs that are maps at a fixed share of its size",
            fix="See `foveate inspect`; model(frame) runs single frames.",
        )
    chosen = RegionPolicy().but({**vars(policy), **options})
    assert isinstance(chosen, RegionPolicy)
    return RegionStream(manifest.crops, manifest.min_size, read, run, chosen, limit)


def _planes(image: np.ndarray, axes: Pair) -> np.ndarray:
    """The image as [1, channels, height, width]."""
    return np.moveaxis(image, axes, (2, 3))
