"""Errors. Every message says what was got, what was expected and what to do about it.

Two roots: `FoveateError` is the user's to mend, `InternalError` is ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FoveateError(Exception):
    """Something the caller can mend. `got`, `expected` and `fix` are also kept as attributes.

    `exit_code` is what the command line returns: 1 check failed, 2 usage, 3 environment.
    """

    exit_code = 2

    def __init__(self, what: str, *, got: str, expected: str, fix: str):
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        super().__init__(f"{what}: got {got}; expected {expected}.\n  {fix}")


class InputError(FoveateError):
    """An image, array or option has the wrong shape, dtype or value."""


class BundleError(FoveateError):
    """A bundle is missing, truncated, edited or from another schema version."""


class ProgramError(FoveateError):
    """An ONNX program cannot be read, or holds a node that Foveate does not know."""


class DecisionError(FoveateError):
    """A decision came out as NaN or out of its range; the image it belongs to is named."""


class MissingExtraError(FoveateError, ImportError):
    """A library that an optional feature needs is not installed."""

    exit_code = 3

    def __init__(self, package: str, extra: str, needed_for: str):
        super().__init__(
            needed_for,
            got=f"no module {package!r}",
            expected=f"{package} installed",
            fix=f"pip install 'foveate[{extra}]'",
        )


class EngineError(FoveateError):
    """An engine cannot be opened or run on this machine."""

    exit_code = 3


class QueueFullError(FoveateError):
    """As many images are on their way as the model may hold; once some are done there is room again."""

    exit_code = 1


class CheckFailed(FoveateError):
    """A verification went beyond its tolerance."""

    exit_code = 1


class BackendWarning(UserWarning):
    """A bundle's engines cannot run on this machine, and another backend answers in their place."""


class InternalError(Exception):
    """A defect in Foveate itself; please report it with the message."""


def first_line(error: BaseException) -> str:
    """Of what another library's error says, or else its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def told(error: BaseException) -> str:
    """Another library's error in a line: "ValueError: first line of what it says"."""
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The fix for a name that is not known: the nearest one that is, or `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else otherwise
