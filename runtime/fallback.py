"""Whether a stream's next frame is worth computing selectively, or whole by the dense engine.

A dense frame leaves no state behind: the next selective one needs a whole frame by the native kernels first. When to
change over is the ski rental problem (Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy caching", 1988): as
soon as what the other engine would have saved, frame by frame, adds up to what changing over costs. So no sequence of
still and moving frames takes more than twice the time of the best choice in hindsight, but for trials.
"""

from __future__ import annotations

from dataclasses import dataclass

# A frame is computed selectively, by the dense engine, or at all positions by the native kernels.
SPANS, DENSE, WHOLE = "spans", "dense", "whole"

_DOUBT = 0.4  # of a whole frame's time: from there on, the dense engine's is worth knowing
_FLAP = 0.2  # of a dense frame, added to what changing over costs: times are noisy
_WEIGHT = 0.25  # of a new measurement …
_UPWARD = 0.05  # … of a dense frame that took longer: other work of the machine only ever adds to times
_SAMPLES = 4  # dense frames, until their least time but the first counts as known
_CLIP = 2.0  # one frame cannot say more than this factor: a preempted one is no evidence
_LEAST = 0.02  # of the work: frames of less say nothing about what work costs
# Frames of the dense engine are looked at for changes at gaps of 3 and 4: of so many in a row, these. No cadence of
# repeated frames, as of 25 in 50, hides behind both.
_CADENCE, _LOOKS = 7, (0, 3)
# Where layers may hold back what is foreseen: selective frames behind each whole one, and again after so many dense
# frames, then after twice as many. A trial waits until it takes no more than a share of the time.
_TRIAL, _PATIENCE, _MOST_PATIENCE, _TRIAL_SHARE = 2, 32, 512, 0.015


@dataclass
class FrameCosts:
    """Milliseconds of whole frames of one resolution, by native kernels and by the dense engine: shared by the streams
    of a model. 0: not known yet. First times, with memory touched for the first time, count as a hint alone."""

    whole: float = 0.0
    dense: float = 0.0
    wholes: int = 0
    denses: int = 0

    def took(self, kind: str, ms: float) -> None:
        if kind == WHOLE:
            self.wholes += 1
            self.whole = ms if self.wholes <= 2 else self.whole + _WEIGHT * (ms - self.whole)
        else:
            self.denses += 1
            if self.denses > _SAMPLES:
                self.dense += (_WEIGHT if ms < self.dense else _UPWARD) * (ms - self.dense)
            else:
                self.dense = ms if self.denses <= 2 else min(ms, self.dense)


class Fallback:
    """Of one stream. Work is a share of a whole frame's multiply-adds. `held_back`: layers may hold back some of what
    is foreseen; how much is only known from selective frames, so they are tried."""

    def __init__(self, costs: FrameCosts, held_back: bool = False):
        self._costs, self._tries = costs, _TRIAL if held_back else 0
        self._fixed = 0.0  # ms of a selective frame beyond its work
        self._left = 1.0  # of the foreseen work, once layer thresholds have stopped what they stop
        self._seen = 0  # selective frames
        self._balance = 0.0  # ms that the other engine would have saved
        self._trial = 0  # selective frames to come, whatever is foreseen of them
        self._waited, self._patience = 0, _PATIENCE  # dense frames, and how many until the next trial
        self._unseen = 0  # dense frames since one was looked at: it speaks for them
        self.dense = False  # the last frame was the dense engine's: there is no state

    @property
    def looks(self) -> bool:
        """Whether to ask `choose` about the next frame; it is the dense engine's otherwise."""
        settled = self.dense and self._costs.denses >= _SAMPLES
        return not settled or self._waited % _CADENCE in _LOOKS

    def choose(self, work: float) -> str:
        """SPANS, DENSE or WHOLE for a frame of this foreseen work."""
        costs, alike = self._costs, max(1, self._unseen)
        self._unseen = 0
        if self._trial:
            return SPANS
        if costs.denses < _SAMPLES:
            return DENSE if self.dense or self._predict(work) > _DOUBT * costs.whole else SPANS
        if self.dense and (costs.wholes < 2 or self._trial_due()):
            return WHOLE
        loss = self._predict(work) - costs.dense
        self._balance = max(0.0, self._balance + (-loss * alike if self.dense else loss))
        change = self._balance > max(0.0, costs.whole - costs.dense) + _FLAP * costs.dense
        if not change:
            return DENSE if self.dense else SPANS
        return WHOLE if self.dense else DENSE

    def took(self, kind: str, ms: float, foreseen: float, work: float) -> None:
        """A frame is done. `foreseen`, `work`: what was expected and what was left of it; of selective frames."""
        if self.dense != (kind == DENSE):
            self._balance = 0.0
        self.dense = kind == DENSE
        if kind == SPANS:
            self._took_selective(ms, foreseen, work)
            return
        self._costs.took(kind, ms)
        if kind == DENSE:
            self._waited += 1
            self._unseen += 1
            return
        self._trial = self._tries
        if self._trial_due():
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._waited = 0

    def _took_selective(self, ms: float, foreseen: float, work: float) -> None:
        self._trial = max(0, self._trial - 1)
        self._seen += 1
        if self._seen > _TRIAL:
            ms = min(ms, _CLIP * self._predict(foreseen))
        if foreseen > 0:
            self._left += max(_WEIGHT, 1 / self._seen) * (work / foreseen - self._left)
        if work > _LEAST:
            self._costs.whole = min(self._costs.whole, ms / work)
        if self._seen > 1:  # the first touches memory for the first time
            weight = max(_WEIGHT, 1 / (self._seen - 1))
            self._fixed += weight * (ms - self._costs.whole * work - self._fixed)
        if ms < self._costs.dense:
            self._patience = _PATIENCE

    def _trial_due(self) -> bool:
        costs = self._costs
        trial = costs.whole + self._tries * self._predict(1.0) - (1 + self._tries) * costs.dense
        waited = self._tries > 0 and self._waited >= self._patience
        return waited and trial <= _TRIAL_SHARE * self._waited * costs.dense

    def _predict(self, work: float) -> float:
        return self._fixed + self._costs.whole * self._left * work
