"""Options of a stream of regions."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError
from .policy import StreamPolicy


@dataclass(frozen=True)
class RegionPolicy(StreamPolicy):
    """`StreamPolicy` for mode "regions", in which no layer has a threshold. Lengths are in pixels of the input.

    margin: what a crop adds around what changed.
    side: of a crop at least. Global ops need to see enough of the image: many small crops are farther off than one
        that holds them all.
    blend: a linear ramp from the new to the previous output, in the middle of the margin; 0 is a hard edge.
    audit: every so many frames is also computed whole, which is then its answer, and the difference is
        `RegionStream.error`; 0 never.
    """

    margin: int = 32
    side: int = 160
    blend: int = 8
    audit: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_threshold != 0:
            raise InputError(
                "stream option layer_threshold",
                got=repr(self.layer_threshold),
                expected="none in mode 'regions', which looks into no layer",
                fix="Leave it out, or take mode='layers'.",
            )
        if not (0 <= self.blend <= self.margin and self.side >= 0 and self.audit >= 0):
            raise InputError(
                "stream options",
                got=f"margin {self.margin}, side {self.side}, blend {self.blend}, audit {self.audit}",
                expected="none below 0, and a blend of at most the margin",
                fix="Leave them out for the defaults.",
            )
