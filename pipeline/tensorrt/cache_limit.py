"""How much the cache of engines may take: what was unused for longest goes first, by the time of its file."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from ...runtime.errors import InputError

LIMIT_VARIABLE, LIMIT = "FOVEATE_CACHE_LIMIT", "20GB"
_IN_USE = 3600  # seconds after it was taken in which a file stays: a build may not have copied it yet
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Kept(Protocol):
    """A file of the cache, whose time is set whenever it is taken."""

    @property
    def path(self) -> Path: ...
    @property
    def bytes(self) -> int: ...


K = TypeVar("K", bound=Kept)


def beyond(kept: Iterable[K], limit: int) -> list[K]:
    """So many of these, unused for longest, that all others take `limit` bytes at most. None that was taken within the
    last hour."""
    kept = list(kept)
    total, found = sum(each.bytes for each in kept), list[K]()
    for each in sorted(kept, key=_taken):
        if total <= limit or _taken(each) > time.time() - _IN_USE:
            break
        total -= each.bytes
        found.append(each)
    return found


def _taken(kept: Kept) -> float:
    """When it was last taken; 0 where another process has removed it."""
    try:
        return kept.path.stat().st_mtime
    except OSError:
        return 0.0


def cache_limit() -> int:
    """Bytes that the cache may take: FOVEATE_CACHE_LIMIT. Raises InputError."""
    return read_bytes(os.environ.get(LIMIT_VARIABLE) or LIMIT)


def read_bytes(text: str) -> int:
    """ "500MB" -> 500 000 000. Raises InputError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    if found is None or found[2] not in _UNITS:
        raise InputError(
            "limit of the engine cache",
            got=repr(text),
            expected="bytes, such as 500MB or 20GB",
            fix=f"Correct {LIMIT_VARIABLE} or --limit.",
        )
    return int(float(found[1]) * _UNITS[found[2]])
