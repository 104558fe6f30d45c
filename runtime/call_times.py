"""What a run of the whole program costs on a part of the frame, learned from a stream's own runs."""

from __future__ import annotations

_GUESS = 0.01  # of a whole frame: what a run costs beside its area, until crops tell
_WEIGHT = 0.2  # of a new measurement …
_WHOLE_WEIGHT = 0.5  # … and of one of a whole frame, which are rarer; the first is mostly too long
_FORGET = 0.95  # for each frame that ran whole because crops seemed slower, so that they are tried again


class CallTimes:
    """A run on `share` of the frame takes fixed + (whole − fixed) · share, in ms."""

    def __init__(self) -> None:
        self.whole = self.fixed = 0.0

    def saw_whole(self, ms: float) -> None:
        if self.whole == 0:
            self.whole, self.fixed = ms, _GUESS * ms
        self.whole += _WHOLE_WEIGHT * (ms - self.whole)

    def saw_crop(self, share: float, ms: float) -> None:
        if share < 1:  # the smaller a crop, the more it tells of `fixed`
            found = (ms - self.whole * share) / (1 - share)
            self.fixed += _WEIGHT * (1 - share) * (min(max(found, 0.0), self.whole) - self.fixed)

    def ms(self, runs: int, share: float) -> float:
        """Of so many runs, whose shares add up to `share`."""
        return runs * self.fixed + max(self.whole - self.fixed, 0.0) * share

    def pays(self, runs: int, share: float) -> bool:
        """Whether so many runs are expected to take less time than one of the whole frame."""
        if self.ms(runs, share) < self.whole:
            return True
        if share < 1:
            self.fixed *= _FORGET
        return False

    @property
    def fixed_share(self) -> float:
        """`fixed` as the share of the frame whose area costs as much."""
        return self.fixed / max(self.whole - self.fixed, 1e-3 * self.whole) if self.whole else 0.0
