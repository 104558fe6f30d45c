"""How images that were submitted one by one run together."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Batching:
    """max_batch: images of one size that run as one batch, at most.
    max_delay_ms: how long an image may wait for others while nothing else is to be done; behind a gate it waits as
        long again at most, and only while other images run. With 0 batches are made of what has queued up meanwhile.
    queue: images that may be on their way at a time; who submits another waits until one is done.
    """

    max_batch: int = 4
    max_delay_ms: float = 0.0
    queue: int = 64

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("queue", 1), ("max_delay_ms", 0)):
            value = getattr(self, name)
            kinds = (int, float) if name == "max_delay_ms" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < float("inf"):
                raise InputError(
                    f"Batching.{name}",
                    got=repr(value),
                    expected=f"{'a number' if len(kinds) > 1 else 'an integer'} ≥ {least}",
                    fix="Leave it out.",
                )
