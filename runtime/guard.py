"""The online guard: experience against prediction, so that a strategy that keeps losing is not kept.

Per region it follows how measured times compare with predicted ones, for the selective path and for the fallback, as
exponentially weighted means. A region whose selective path loses several times in a row is demoted to its fallback for
a number of requests that doubles with every losing probe. Where every region keeps falling back, whatever the reason,
the steps are not worth their borders: the model rests, and runs the whole program in one engine, until an image comes
that keeps little, or it is time to look again.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

_LOG = logging.getLogger("foveate")

_WEIGHT = 0.15  # of a new measurement …
_DENSE_WEIGHT = 0.4  # … and of one of the fallback, which are rarer
_CLIP = 4.0  # one measurement cannot say more than this factor: a preempted call is no evidence
_FORGET = 0.98  # per request that ran dense for experience alone, so that the selective path is tried again
_LOSSES = 4  # in a row, until demotion
_FIRST_PAUSE, _LONGEST_PAUSE = 32, 1024  # requests
_NEAR = 0.6  # selective above this share of dense, or nothing known of it: its time is worth checking …
_FIRST_PROBE, _RAREST_PROBE = 8, 64  # … after so many requests; each time after twice as many
_STREAK = 8  # requests in a row whose regions all fell back, until the model rests …
_REST = 16  # … for so many


@dataclass
class _Experience:
    selective: float = 1.0  # measured ÷ predicted
    dense: float = 1.0
    losses: int = 0
    pause: int = _FIRST_PAUSE
    remaining: int = 0
    close_calls: int = 0
    probe_after: int = _FIRST_PROBE
    checked: bool = (
        False  # dense has been seen: what was measured once may have been measured in a busy moment
    )
    demotions: int = 0


class Guard:
    """Experience of every region of one model. Safe for concurrent callers."""

    def __init__(self, regions: tuple[str, ...]):
        self._regions = {name: _Experience() for name in regions}
        self._lock = threading.Lock()
        self._streak = self._rest = 0

    @property
    def resting(self) -> bool:
        """The last requests fell back throughout: one engine for the whole program is then the best there is."""
        return self._rest > 0

    def saw_choices(self, all_dense: bool) -> None:
        """A request ran step by step; `all_dense`: every region of it fell back."""
        with self._lock:
            self._streak = self._streak + 1 if all_dense else 0
            if self._streak >= _STREAK:
                self._rest = _REST
                self._streak = _STREAK - 1  # one more fallback after the rest begins another

    def rested(self, promising: bool) -> None:
        """A request ran as one engine; `promising`: an image of it keeps so little that windows should win."""
        with self._lock:
            self._rest = 0 if promising else max(0, self._rest - 1)
            self._streak = 0 if promising else self._streak

    def demoted(self, region: str) -> bool:
        return self._regions[region].remaining > 0

    @property
    def all_demoted(self) -> bool:
        """Every region is: the whole program run densely is then the best there is."""
        return bool(self._regions) and all(e.remaining > 0 for e in self._regions.values())

    @property
    def demotions(self) -> int:
        return sum(e.demotions for e in self._regions.values())

    def pass_by(self, region: str) -> None:
        """A demoted region ran its fallback once more."""
        with self._lock:
            experience = self._regions[region]
            experience.remaining = max(0, experience.remaining - 1)

    def budget(self, region: str, dense_ms: float) -> float:
        """The predicted selective ms above which the fallback is expected to win; 0 asks for a dense probe."""
        with self._lock:
            e = self._regions[region]
            if e.close_calls >= e.probe_after:
                e.close_calls, e.probe_after = 0, min(2 * e.probe_after, _RAREST_PROBE)
                return 0.0
            # Experience may tighten the prediction, never loosen it: that both got slower is learnt one by one.
            return dense_ms * min(1.0, e.dense / e.selective)

    def saw_selective(self, region: str, predicted_ms: float, measured_ms: float, dense_ms: float) -> None:
        with self._lock:
            e = self._regions[region]
            e.selective = _follow(e.selective, measured_ms, predicted_ms, _WEIGHT)
            expected = dense_ms * e.dense
            e.close_calls += not e.checked or measured_ms > _NEAR * expected
            if measured_ms <= expected:
                e.losses, e.pause = 0, _FIRST_PAUSE
                return
            e.losses += 1
            if e.losses < _LOSSES:
                return
            # One more loss after the pause demotes again.
            e.losses, e.remaining, e.demotions = _LOSSES - 1, e.pause, e.demotions + 1
            e.pause = min(2 * e.pause, _LONGEST_PAUSE)
            pause = e.remaining
        _LOG.info(
            "%s demoted for %d requests: selective %.2f ms, dense %.2f ms",
            region,
            pause,
            measured_ms,
            expected,
        )

    def saw_dense(self, region: str, predicted_ms: float, measured_ms: float) -> None:
        with self._lock:
            e = self._regions[region]
            e.checked = True
            e.dense = _follow(e.dense, measured_ms, predicted_ms, _DENSE_WEIGHT)
            e.selective = 1.0 + (e.selective - 1.0) * _FORGET


def _follow(mean: float, measured: float, predicted: float, weight: float) -> float:
    ratio = measured / predicted if predicted > 0 else 1.0
    return mean + weight * (min(max(ratio, 1 / _CLIP), _CLIP) - mean)
