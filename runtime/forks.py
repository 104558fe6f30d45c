"""Models in a forked child: their engines stay behind, and new ones are opened at first use."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, Protocol


class Forkable(Protocol):
    """Something that was started in the parent. `started` are its engines there, or None."""

    started: Any

    def forget(self) -> None: ...


_WATCHED: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(model: Forkable) -> None:
    """Has `model` start anew in every process forked from here on."""
    _WATCHED.add(model)


def _after_fork() -> None:
    """The parent's engines are kept from ever being destroyed, not even when the child ends: a session's destructor
    waits for threads that are not here. The locks are new ones, for another thread may have held them."""
    for model in list(_WATCHED):
        if model.started is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(model.started))
        model.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
