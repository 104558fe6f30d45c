"""How a bundle was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .batching import Batching
from .engine import Config
from .errors import InputError

SELECTIVE = ("rects", "spans")  # whatever it costs
STRATEGIES = ("auto", "dense", *SELECTIVE)
_CACHE_BYTES = 512 * 2**20
_SHARE = 4  # of a GPU's memory is one part for reference states
MAX_STATE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Options:
    """With the bundle's path, all that a copy of a model in another process needs. Fields as in `loading.load`."""

    config: Config
    strategy: str
    choices: Mapping[str, Any]
    cache_bytes: int | None
    max_state_bytes: int
    memory_bytes: int | None
    verify: bool
    batching: Batching
    pad: bool
    layout: str | None = None


def cache_bytes(memory: int | None) -> int:
    """The bound of reference states where none was asked for. `memory`: of a GPU."""
    return _CACHE_BYTES if memory is None else memory // _SHARE


def check_options(strategy: str, **sizes: int | None) -> None:
    """Raises InputError."""
    if strategy not in STRATEGIES:
        raise InputError(
            "strategy",
            got=repr(strategy),
            expected=f"one of {', '.join(STRATEGIES)}",
            fix="Leave it out for auto.",
        )
    for name, value in sizes.items():
        if value is not None and value < 0:
            raise InputError(name, got=repr(value), expected="a number of bytes ≥ 0", fix="Leave it out.")
