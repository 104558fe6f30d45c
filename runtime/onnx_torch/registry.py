"""The ONNX operators that are known here, by name: how each is computed by torch.

Sizes may be symbols of torch.export, so what an operator does follows from ranks, attributes and known numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError, InternalError

Attributes = dict[str, Any]
# (attributes, *inputs) -> a tensor, or a tuple of them; an input that is left out is None
Run = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """`host`: inputs whose values decide what is computed, as a shape does. They are given as lists, and must be known
    when the program is recorded."""

    run: Run
    host: frozenset[int]


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, host: Sequence[int] = ()) -> Callable[[Run], Run]:
    def add(run: Run) -> Run:
        for name in names:
            if name in OPERATORS:
                raise InternalError(f"two operators {name}")
            OPERATORS[name] = Operator(run, frozenset(host))
        return run

    return add


def refused(what: str, got: str, expected: str) -> EngineError:
    return EngineError(
        f"{what} in torch", got=got, expected=expected, fix="Load the bundle with backend='ort'."
    )
