"""`module:function`: how users name their own Python callables on the command line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError


def import_function(spec: str, role: str) -> Callable[..., Any]:
    """The callable `function` of `module`, which is also looked for in the current folder. Raises InputError.

    `role` names what it is wanted for ("data", "metric"). What the module itself raises passes through.
    """
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a console script, unlike `python -m`, does not look in the current folder
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the user's module imports
        raise _not_found(spec, role, f"no module {error.name!r}") from error
    except ValueError as error:  # an empty module name
        raise _not_found(spec, role, str(error)) from error
    finally:
        sys.path.remove(here)
    function = getattr(module, name, None) if name else None
    if not callable(function):
        raise _not_found(spec, role, f"no function {name!r} in {module_name}")
    return function


def _not_found(spec: str, role: str, got: str) -> InputError:
    return InputError(
        f"{role} {spec}",
        got=got,
        expected="module:function, importable from here",
        fix="Check the spelling, and that the module lies in the current folder or on PYTHONPATH.",
    )
