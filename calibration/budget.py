"""What answers may cost in quality and in time, and which of several things that were tried that leaves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..runtime.errors import InputError

NEAR = 0.02  # costs so near the least (as a share of it) count as equal: latencies are no better known
_ROUNDING = 1e-9


class Tried(Protocol):
    """quality: larger is better; ms: of an image, measured; cost: what is to be small."""

    @property
    def quality(self) -> float: ...
    @property
    def ms(self) -> float: ...
    @property
    def cost(self) -> float: ...


T = TypeVar("T", bound=Tried)


@dataclass(frozen=True)
class Budget:
    """At most one of the first three, `latency_ms`, or both. Shares: 0.005 is half a percent point.

    max_drop: how far the metric may be below the reference's. min_metric: its least value. max_drift: the largest share
    of answers (classes, of images or pixels) other than the reference's, of streams the largest mean |difference| as a
    share of the output's range; neither needs labels. latency_ms: the mean over images, or frames, on this device.
    Raises InputError for numbers that make no sense, and for two limits of quality."""

    max_drop: float | None = None
    min_metric: float | None = None
    max_drift: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name, value in given.items():
            least = -math.inf if name == "min_metric" else 0.0
            if not (math.isfinite(value) and value >= least):
                raise InputError(
                    _option(name), got=f"{value:g}", expected="0 or more", fix=f"Correct {_option(name)}."
                )
        quality = [_option(name) for name in given if name != "latency_ms"]
        if len(quality) > 1:
            raise InputError(
                "budget",
                got=" and ".join(quality),
                expected="one limit of quality",
                fix="Leave out the others.",
            )

    @property
    def given(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def metric(self, asked: str | None, comparing: Sequence[str]) -> str | None:
        """`asked`; of drift one of those that compare with the reference, by default the first. Raises InputError."""
        if self.max_drift is None:
            return asked
        if asked not in (None, *comparing):
            raise InputError(
                "budget",
                got=f"--max-drift with --metric {asked}",
                expected=f"a metric that compares with the dense program: {' or '.join(comparing)}",
                fix="Give --max-drop instead (of streams, --max-drift 1% is what no budget means).",
            )
        return asked or comparing[0]

    def least(self, reference: float) -> float | None:
        """The quality that is still allowed, where the reference has this one. None: any."""
        if self.min_metric is not None:
            return self.min_metric
        drop = self.max_drift if self.max_drop is None else self.max_drop
        return None if drop is None else reference - drop

    def words(self) -> str:
        """ "max-drop 0.5 %, latency-budget 8 ms"."""
        shares = ("max_drop", "min_metric", "max_drift")
        found = [f"{_option(n)[2:]} {100 * v:.3g} %" for n in shares if (v := getattr(self, n)) is not None]
        return ", ".join(
            [*found, *([] if self.latency_ms is None else [f"latency-budget {self.latency_ms:g} ms"])]
        )

    def pick(self, tried: Iterable[T], reference: float) -> T:
        """The cheapest with enough quality, of equally cheap ones (within `NEAR`) the best; the best within the latency
        where no quality is asked for. Raises InputError where nothing fits."""
        tried, least = list(tried), self.least(reference)
        fast = [t for t in tried if self.latency_ms is None or t.ms <= self.latency_ms]
        if not fast:
            raise InputError(
                "budget",
                got=f"a latency of at most {self.latency_ms:g} ms",
                expected=f"at least {min(t.ms for t in tried):.3g} ms, the least that was measured on this device",
                fix="Raise --latency-budget.",
            )
        if least is None:
            return max(fast, key=lambda t: (t.quality, -t.cost))
        good = [t for t in fast if t.quality >= least - _ROUNDING]
        if not good:
            raise InputError(
                "budget",
                got=f"{self.words()}: a quality of at least {least:.4f}",
                expected=f"at most {max(t.quality for t in fast):.4f}, the best that was tried"
                + ("" if self.latency_ms is None else f" within {self.latency_ms:g} ms"),
                fix="Ask for less quality" + ("." if self.latency_ms is None else ", or for more time."),
            )
        cheapest = min(t.cost for t in good)
        return max((t for t in good if t.cost <= cheapest * (1 + NEAR)), key=lambda t: (t.quality, -t.cost))


def pareto(tried: Iterable[T]) -> list[T]:
    """Those than which no other is both better and cheaper; by cost, and rising in quality."""
    front: list[T] = []
    for each in sorted(tried, key=lambda t: (t.cost, -t.quality)):
        if not front or each.quality > front[-1].quality:
            front.append(each)
    return front


def _option(name: str) -> str:
    return {"latency_ms": "--latency-budget"}.get(name, f"--{name.replace('_', '-')}")
