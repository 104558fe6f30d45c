"""Fields: which input positions an output position reads along one axis, as an exact interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Field:
    """Output position o reads input positions [⌊o·stride⌋ + low, ⌊o·stride⌋ + high].

    `stride` is in input positions per output position: 2 for a conv of stride 2, 1/2 for a Resize by 2.
    """

    stride: Fraction = Fraction(1)
    low: int = 0
    high: int = 0

    def first(self, o: int) -> int:
        return math.floor(o * self.stride) + self.low

    def last(self, o: int) -> int:
        return math.floor(o * self.stride) + self.high

    def of(self, inner: Field) -> Field:
        """What o reads through this field of a tensor that reads its own source through `inner`: the exact hull."""
        stride = self.stride * inner.stride
        period = range(self.stride.denominator * inner.stride.denominator)
        low = min(inner.first(self.first(o)) - math.floor(o * stride) for o in period)
        high = max(inner.last(self.last(o)) - math.floor(o * stride) for o in period)
        return Field(stride, low, high)

    def hull(self, other: Field) -> Field:
        """Both together; their strides must be equal."""
        return Field(self.stride, min(self.low, other.low), max(self.high, other.high))

    def needs(self, below: int, above: int) -> tuple[int, int]:
        """Input positions needed beyond whole cells, if `below` and `above` output positions are needed beyond them."""
        low = math.ceil(below * self.stride) - self.low
        high = math.floor((above - 1) * self.stride) + self.high + 1
        return max(low, 0), max(high, 0)


Fields = tuple[Field, Field]  # along (height, width)

SAME = Field()
HERE: Fields = (SAME, SAME)


def compose(outer: Fields, inner: Fields) -> Fields:
    return outer[0].of(inner[0]), outer[1].of(inner[1])


def from_reads(period: int, first: list[Fraction], last: list[Fraction], stride: Fraction) -> Field:
    """The field of an op whose outputs 0 … period-1 read [⌊first⌋, ⌊last⌋], repeated every `period` outputs."""
    lows = [math.floor(f) - math.floor(o * stride) for o, f in enumerate(first[:period])]
    highs = [math.floor(f) - math.floor(o * stride) for o, f in enumerate(last[:period])]
    return Field(stride, min(lows), max(highs))
