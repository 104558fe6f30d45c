"""The ONNX operators that are known here, by name: how each is computed by torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InternalError

Attributes = dict[str, Any]
Run = Callable[
    ..., Any
]  # (attributes, *inputs) -> a tensor, or a tuple of them; an input that is left out is None


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
