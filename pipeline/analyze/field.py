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
        if self == SAME or inner == SAME:
            return inner if self == SAME else self
        stride = self.stride * inner.stride
        period = range(self.stride.denominator * inner.stride.denominator)
        low = min(inner.first(self.first(o)) - math.floor(o * stride) for o in period)
        high = max(inner.last(self.last(o)) - math.floor(o * stride) for o in period)
        return Field(stride, low, high)

    def hull(self, other: Field) -> Field:
        """Both together; their strides must be equal."""
        return Field(self.stride, min(self.low, other.low), max(self.high, other.high))

    def there(self, spare: int) -> Field:
        """With the input positions that must be there for an output of the op to be there; see registry.Local."""
        a, c = self.stride.denominator, self.stride.numerator
        last = max(-((spare - c * (o + 1)) // a) - 1 - o * c // a for o in range(a))
        return self if last <= self.high else Field(self.stride, self.low, last)

    def shrinks(self, spare: int) -> bool:
        """Whether the op's output may lack the last of the cells that its input has."""
        return spare < self.stride.numerator - 1

    def needs(self, below: int, above: int) -> tuple[int, int]:
        """Input positions needed beyond whole cells, if `below` and `above` output positions are needed beyond them."""
        num, den = self.stride.numerator, self.stride.denominator  # whole numbers: this is called very often
        low = -(-below * num // den) - self.low
        high = (above - 1) * num // den + self.high + 1
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
