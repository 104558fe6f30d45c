"""What a stream may take as unchanged, and when it computes a frame whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class StreamPolicy:
    """The default is exact. Positions are those of the program's inputs, thresholds in their units.

    threshold: a position changed where any channel moved by more than this since it was last propagated.
    block, vote: positions are computed by blocks of this side, where at least `vote` of a block changed: isolated
        positions of camera and codec noise are not.
    keep: the same for a block that was computed in the frame before (hysteresis); 0 takes `vote`.
    patience: a block that changed, but not enough, is computed after so many frames in a row; 0 never.
    layer_threshold: a layer passes a position on where any channel moved by more than this share of the layer's
        range, 3 times its root mean square over the last whole frame; by tensor name, or one for all layers whose
        output is read by enough work. What is not passed on counts when the position is computed next, so that it
        cannot add up.
    refresh: every so many frames is computed whole; 0 never.
    drift: so is a frame where the mean of |input − last propagated|, over what would not be computed, is above this.
    cut: and one of which more than this share of the positions changed (a scene cut).
    fallback: the dense engine takes over where it is measured to be faster (a moving camera).
    """

    threshold: float = 0.0
    block: int = 1
    vote: int = 1
    keep: int = 0
    patience: int = 0
    layer_threshold: float | Mapping[str, float] = field(default=0.0)
    refresh: int = 0
    drift: float = math.inf
    cut: float = 1.0
    fallback: bool = True

    def __post_init__(self) -> None:
        layers = self.layer_threshold
        at_least = {
            "threshold": (self.threshold, 0),
            "block": (self.block, 1),
            "vote": (self.vote, 1),
            "keep": (self.keep, 0),
            "patience": (self.patience, 0),
            "layer_threshold": (
                min(layers.values(), default=0) if isinstance(layers, Mapping) else layers,
                0,
            ),
            "refresh": (self.refresh, 0),
            "drift": (self.drift, 0),
            "cut": (self.cut, 0),
        }
        for name, (value, least) in at_least.items():
            if not value >= least:  # NaN is neither
                raise InputError(
                    f"stream option {name}",
                    got=repr(getattr(self, name)),
                    expected=f"at least {least}",
                    fix="Leave it out for the default.",
                )
        for name in ("vote", "keep"):
            if getattr(self, name) > self.block**2:
                raise InputError(
                    f"stream option {name}",
                    got=f"{getattr(self, name)} positions of blocks of {self.block} × {self.block}",
                    expected=f"at most {self.block**2}",
                    fix="Take larger blocks.",
                )

    @property
    def exact(self) -> bool:
        """Whether every frame has the dense program's answer."""
        layers = self.layer_threshold
        passes = max(layers.values(), default=0) if isinstance(layers, Mapping) else layers
        return self.threshold == 0 and self.vote == 1 and passes == 0

    def but(self, options: Mapping[str, Any]) -> StreamPolicy:
        """With some fields changed. Raises InputError for names that it does not have."""
        known = [f.name for f in fields(self)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InputError(
                "stream options",
                got=", ".join(unknown),
                expected=f"some of {', '.join(known)}",
                fix="Check the names.",
            )
        return replace(self, **options)
