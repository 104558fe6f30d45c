"""How much of a stream's next frame is worth computing selectively, and how much by the dense engine.

The layers are cut into groups, in order. At level l the first l groups run selectively, and the dense engine computes
what lies behind them: everything at level 0. It leaves no state behind: a group whose state was passed over is computed
whole by the native kernels before it is selective again. When to change over is a task system in the sense of Borodin,
Linial and Saks ("An optimal on-line algorithm for metrical task system", 1992), and so is the rule: take the level
that was the best in hindsight, as soon as it is the best even with the way there. Of two levels this is the ski rental
rule: what the other one would have saved, frame by frame, adds up to what changing over and back costs. So no sequence
of still and moving frames takes more than 2n − 1 times the time of the best choice in hindsight of n levels, but for
trials and first times.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

_DOUBT = 0.4  # of the kernels' time for a whole frame: from there on, the dense engine's is worth knowing
_FLAP = 0.2  # of a group's time in the dense engine, added to what changing over costs: times are noisy
_WEIGHT = 0.25  # of a new measurement …
_UPWARD = 0.05  # … of the dense engine that took longer: other work of the machine only ever adds to times
_SAMPLES = 4  # dense frames, until their least time but the first counts as known
_HINTS = 1  # first times, with memory touched for the first time, are a hint alone
_CLIP = 2.0  # one frame cannot say more than this factor: a preempted one is no evidence
_LEAST = 0.02  # of the work: frames of less say nothing about what work costs
# Frames of the dense engine are looked at for changes at gaps of 3 and 4: of so many in a row, these. No cadence of
# repeated frames, as of 25 in 50, hides behind both.
_CADENCE, _LOOKS = 7, (0, 3)
# Where layers may hold back what is foreseen: selective frames behind each whole one, and again after so many frames
# with the dense engine, then after twice as many. A trial waits until it takes no more than a share of the time.
_TRIAL, _PATIENCE, _MOST_PATIENCE, _TRIAL_SHARE = 2, 32, 512, 0.015
_COMPARED, _MOST_MORE = (
    4,
    4.0,
)  # selective frames that tell how much more differs, and how much that is at most


class _Whole:
    """Milliseconds of a group at all positions by native kernels."""

    def __init__(self) -> None:
        self.ms, self.count = 0.0, 0

    def took(self, ms: float) -> None:
        self.count += 1
        self.ms = ms if self.count <= _HINTS + 1 else self.ms + _WEIGHT * (ms - self.ms)


class _Dense:
    """Milliseconds of an engine that computes whole maps."""

    def __init__(self) -> None:
        self.ms, self.count = 0.0, 0

    def took(self, ms: float) -> None:
        self.count += 1
        if self.count > _SAMPLES:
            self.ms += (_WEIGHT if ms < self.ms else _UPWARD) * (ms - self.ms)
        else:
            self.ms = ms if self.count <= _HINTS + 1 else min(ms, self.ms)


class FrameCosts:
    """What frames of one resolution cost: shared by the streams of a model. `shares`: of the kernels' multiply-adds, by
    group of layers."""

    def __init__(self, shares: Sequence[float] = (1.0,)):
        self.shares = tuple(shares)
        self.whole = [_Whole() for _ in shares]
        self.dense = [_Dense() for _ in range(len(shares) + 1)]  # by level

    @property
    def top(self) -> int:
        """The level at which the kernels run all groups."""
        return len(self.shares)

    def behind(self, level: int) -> float:
        """Ms of the dense engine for what lies behind the first `level` groups: by its share of the work, until enough
        frames were measured. A few alone may have met other work of the machine, and would never be put right."""
        own = self.dense[level]
        if level in (0, self.top):
            return own.ms
        rest = self.dense[-1].ms
        guess = rest + (self.dense[0].ms - rest) * sum(self.shares[level:])
        known = min(1.0, max(0, own.count - _HINTS) / (_SAMPLES - _HINTS))
        return guess + known * (own.ms - guess)

    def own(self, group: int) -> float:
        """Ms that the dense engine takes for a group."""
        return max(0.0, self.behind(group) - self.behind(group + 1))


class _Group:
    """What a stream has seen of one group."""

    def __init__(self) -> None:
        self.fixed = 0.0  # ms beyond its work
        self.left = 1.0  # of the foreseen work, once layer thresholds have stopped what they stop
        self.seen = 0  # selective frames

    def predict(self, whole: _Whole, foreseen: float) -> float:
        return self.fixed + whole.ms * self.left * foreseen

    def took(self, whole: _Whole, ms: float, foreseen: float, work: float) -> None:
        self.seen += 1
        if self.seen > _TRIAL:
            ms = min(ms, _CLIP * self.predict(whole, foreseen))
        if foreseen > 0:
            self.left += max(_WEIGHT, 1 / self.seen) * (work / foreseen - self.left)
        if work > _LEAST:
            whole.ms = min(whole.ms, ms / work)
        if self.seen > 1:  # the first touches memory for the first time
            weight = max(_WEIGHT, 1 / (self.seen - 1))
            self.fixed += weight * (ms - whole.ms * work - self.fixed)


class Fallback:
    """Of one stream. Work is a share of a group's multiply-adds. `held_back`: layers may hold back some of what is
    foreseen; how much is only known from selective frames, so they are tried. `gathers`: positions below a threshold
    keep what they had, so that selective frames differ from it by more than dense ones do from the frame before."""

    def __init__(self, costs: FrameCosts, held_back: bool = False, gathers: bool = False):
        self._costs, self._tries = costs, _TRIAL if held_back else 0
        self._groups = [_Group() for _ in costs.shares]
        # Ms of the frames so far at best, by the level at the end; less the least.
        self._best: list[float] = []
        self._trial = 0  # selective frames to come, whatever is foreseen of them
        # Frames with the dense engine, and how many until the next trial.
        self._waited, self._patience = 0, _PATIENCE
        self._unseen = 0  # dense frames since one was looked at: it speaks for them
        self._gathers, self._more = gathers, 1.0  # how much more differs once frames are selective again
        self._promised, self._checks = (
            0.0,
            0,
        )  # what was foreseen when they were, and frames yet to compare with it
        self.level = costs.top  # of the last frame: the groups before it have their state

    @property
    def looks(self) -> bool:
        """Whether to ask `choose` about the next frame; it is the dense engine's otherwise."""
        settled = self.level == 0 and self._costs.dense[0].count >= _SAMPLES
        return not settled or self._waited % _CADENCE in _LOOKS

    def choose(self, foreseen: Sequence[float]) -> int:
        """The level for a frame of this foreseen work, by group."""
        costs, alike = self._costs, max(1, self._unseen)
        self._unseen = 0
        if self.level == 0:
            self._promised = max(foreseen)
            foreseen = [min(1.0, self._more * share) for share in foreseen]
        if self._trial:
            return costs.top
        if costs.dense[0].count < _SAMPLES:
            kernels = self._predict(costs.top, foreseen) - costs.behind(costs.top)
            doubtful = kernels > _DOUBT * sum(group.ms for group in costs.whole)
            return 0 if self.level == 0 or doubtful else costs.top
        if self.level < costs.top and (costs.whole[-1].count <= _HINTS or self._trial_due()):
            return costs.top
        return self._best_level([alike * self._predict(level, foreseen) for level in range(costs.top + 1)])

    def took(
        self, level: int, ms: Sequence[float], current: int, foreseen: Sequence[float], work: Sequence[float]
    ) -> None:
        """A frame is done. `ms`: of each group before the level, and of what lies behind. `current`: how many of these
        groups were selective, the others whole. `foreseen`, `work`: what was expected and what was left of it."""
        costs, resumed = self._costs, level == self._costs.top and current < level
        if resumed and self._trial_due():
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._compare(resumed, foreseen if current == level else ())
        for g in range(level):
            if g < current:
                self._groups[g].took(costs.whole[g], ms[g], foreseen[g], work[g])
            else:
                costs.whole[g].took(ms[g])
        costs.dense[level].took(ms[level])
        self.level = level
        self._unseen += level == 0
        if level < costs.top:
            self._waited += 1
        elif resumed:
            self._trial, self._waited = self._tries, 0
        else:
            self._trial = max(0, self._trial - 1)
            if sum(ms) < costs.behind(0):
                self._patience = _PATIENCE

    def _compare(self, resumed: bool, foreseen: Sequence[float]) -> None:
        """Learns from the first selective frames after dense ones how far the last of those was from them."""
        if resumed:
            self._checks = _COMPARED if self._gathers and self._promised > 0 else 0
        elif self._checks and foreseen:
            self._checks -= 1
            ratio = min(max(max(foreseen) / self._promised, 1.0), _MOST_MORE)
            self._more += _WEIGHT * (ratio - self._more)

    def _best_level(self, times: Sequence[float]) -> int:
        """`times`: ms of this frame, and of those alike, at each level."""
        costs = self._costs
        change = [
            max(0.0, whole.ms - costs.own(g)) + _FLAP * costs.own(g) for g, whole in enumerate(costs.whole)
        ]
        place = [total / 2 for total in accumulate(change, initial=0.0)]  # half of it on the way back
        levels, here = range(len(place)), place[self.level]
        before = self._best or [abs(there - here) for there in place]
        spent = [best + ms for best, ms in zip(before, times, strict=True)]
        best = [min(spent[a] + abs(place[a] - place[b]) for a in levels) for b in levels]
        self._best = [ms - min(best) for ms in best]
        return min(levels, key=lambda level: (spent[level] + abs(place[level] - here), level != self.level))

    def _predict(self, level: int, foreseen: Sequence[float]) -> float:
        costs = self._costs
        groups = zip(self._groups[:level], costs.whole, foreseen, strict=False)
        return sum(group.predict(whole, share) for group, whole, share in groups) + costs.behind(level)

    def _trial_due(self) -> bool:
        if not self._tries or self._waited < self._patience:
            return False
        costs = self._costs
        again = list(zip(self._groups, costs.whole, strict=True))[self.level :]
        own = costs.behind(self.level) - costs.behind(costs.top)
        whole = sum(whole.ms for _, whole in again)
        selective = sum(group.predict(whole, 1.0) for group, whole in again)
        trial = whole + self._tries * selective - (1 + self._tries) * own
        return trial <= _TRIAL_SHARE * self._waited * costs.behind(self.level)
