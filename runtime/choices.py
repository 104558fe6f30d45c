"""Choices: values that calibration may change, fed to every engine that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import InputError, did_you_mean
from .manifest import Choice, Manifest


def default_choices(manifest: Manifest) -> dict[str, np.ndarray]:
    return {choice.name: np.array(choice.value, np.float32) for choice in manifest.choices}


def change_choices(
    current: Mapping[str, np.ndarray], changes: Mapping[str, Any], manifest: Manifest
) -> dict[str, np.ndarray]:
    """A new set of choices. Raises InputError for an unknown name, a wrong length or a value that is not finite."""
    known = {choice.name: choice for choice in manifest.choices}
    return {**current, **{name: _read(name, value, known) for name, value in changes.items()}}


def _read(name: str, value: Any, known: Mapping[str, Choice]) -> np.ndarray:
    if name not in known:
        raise InputError(
            "choices",
            got=repr(name),
            expected=f"one of {', '.join(known) or 'none: this bundle has no choices'}",
            fix=did_you_mean(name, known, "`foveate inspect` lists a bundle's choices."),
        )
    default = np.array(known[name].value, np.float32)
    try:
        array = np.array(value, np.float32)
    except (TypeError, ValueError):
        array = np.array(np.nan, np.float32)
    if array.shape != default.shape or not np.isfinite(array).all():
        raise InputError(
            f"choice {name!r}",
            got=repr(value),
            expected="a finite number" if default.ndim == 0 else f"{default.size} finite numbers",
            fix=f"Its default is {known[name].value}.",
        )
    return array
