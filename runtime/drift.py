"""Whether the images that come take the depths that calibration saw."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LOG = logging.getLogger("foveate")

WINDOW = 256  # images that are compared at a time
_FALSE_ALARM = (
    0.01  # of a window whose images are like those of calibration, at most, however many exits there are
)


@dataclass(frozen=True)
class Comparison:
    """Two samples of depths. `distance`: total variation, the share of images that would have to take another depth;
    `limit`: beyond what samples of these sizes explain."""

    distance: float
    limit: float

    @property
    def drifted(self) -> bool:
        return self.distance > self.limit


def compare(seen: Mapping[int, int], expected: Mapping[int, int]) -> Comparison:
    """Counts by depth. Of n and m independent images from one distribution p, the distance of the shares has a mean of
    at most ½ Σ √(p(1 − p)) · s with s = √(1/n + 1/m), and exceeds its mean by s √(½ ln 1/α) with probability α at most
    (McDiarmid's inequality). p is taken from both samples together."""
    n, m = sum(seen.values()), sum(expected.values())
    spread = math.sqrt(1 / n + 1 / m)
    distance = mean = 0.0
    for depth in {*seen, *expected}:
        a, b = seen.get(depth, 0), expected.get(depth, 0)
        share = (a + b) / (n + m)
        distance += abs(a / n - b / m) / 2
        mean += math.sqrt(share * (1 - share)) * spread / 2
    return Comparison(distance, mean + spread * math.sqrt(math.log(1 / _FALSE_ALARM) / 2))


class Depths:
    """The depths of the last images against those of calibration. Every `WINDOW` images they are compared, and a
    warning is logged where drift begins. Frames of one video are no independent images: there, drift is also a scene
    that lasts."""

    def __init__(self, expected: Mapping[int, int]):
        """expected: images of calibration by depth; empty where nothing is known."""
        self._expected = dict(expected)
        self._lock = threading.Lock()
        self._last: deque[int] = deque(maxlen=WINDOW)
        self._images = 0
        self._found: Comparison | None = None

    def add(self, depths: Iterable[int]) -> None:
        """Safe for concurrent callers."""
        for depth in depths:
            with self._lock:
                self._last.append(depth)
                self._images += 1
                news = self._compare() if self._expected and self._images % WINDOW == 0 else ""
            if news:
                _LOG.warning(news)

    def summary(self) -> dict[str, object]:
        """Shares of the images by depth, `seen` in the last 256 and `expected` from calibration, None where nothing is
        known; `drift` of the last whole window, None before there was one."""
        with self._lock:
            found = self._found
            return {
                "images": self._images,
                "seen": _shares(Counter(self._last)),
                "expected": _shares(self._expected) or None,
                "drift": found and {**dataclasses.asdict(found), "drifted": found.drifted},
            }

    def _compare(self) -> str:
        """What to tell where drift begins."""
        seen, before = Counter(self._last), self._found
        self._found = found = compare(seen, self._expected)
        if not found.drifted or (before is not None and before.drifted):
            return ""
        return (
            f"depths drift: of the last {WINDOW} images {_shown(seen)}, of those of calibration "
            f"{_shown(self._expected)}: distance {found.distance:.2f}, chance explains {found.limit:.2f}. "
            "If such images are here to stay, calibrate again: foveate calibrate --exits."
        )


def _shares(counts: Mapping[int, int]) -> dict[int, float]:
    total = sum(counts.values())
    return {depth: counts[depth] / total for depth in sorted(counts)}


def _shown(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{share:.0%} took {depth} layers" for depth, share in _shares(counts).items())
