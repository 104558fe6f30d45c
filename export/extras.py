"""A library that is not installed is an error that names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..runtime.errors import MissingExtraError


@contextmanager
def needs(extra: str, needed_for: str) -> Iterator[None]:
    """Around imports: ModuleNotFoundError of a third-party library becomes MissingExtraError."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "foveate":
            raise
        raise MissingExtraError(package, extra, needed_for) from error
