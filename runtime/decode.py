"""Parsed JSON as the frozen dataclasses that it was written from."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def decode(kind: Any, value: Any) -> Any:
    """`value` as an instance of the annotation `kind`: a dataclass, or a tuple, list, dict or union of such and of
    plain values. Of a union of dataclasses, that is taken whose `kind` has the value's for its default.

    Raises ValueError, KeyError or TypeError where it is none."""
    origin: Any = typing.get_origin(kind)
    args: tuple[Any, ...] = typing.get_args(kind)
    if hasattr(kind, "__dataclass_fields__"):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise ValueError(f"{kind.__name__} has no field {sorted(unknown)}")
        return kind(**{k: decode(hints[k], v) for k, v in value.items()})
    if origin in (typing.Union, types.UnionType):
        return None if value is None and type(None) in args else _union(args, value)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, got {value!r}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(decode(args[0], v) for v in value)
        return tuple(decode(a, v) for a, v in zip(args, value, strict=True))
    if origin is list:
        return [decode(args[0], v) for v in value]
    if origin is dict:
        return {k: decode(args[1], v) for k, v in value.items()}
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _union(args: tuple[Any, ...], value: Any) -> Any:
    options = [a for a in args if a is not type(None)]
    if len(options) == 1:
        return decode(options[0], value)
    if all(dataclasses.is_dataclass(a) for a in options):
        by_kind = {a.__dataclass_fields__["kind"].default: a for a in options}
        return decode(by_kind[value["kind"]], value)
    for option in options:
        if typing.get_origin(option) in (tuple, list) and isinstance(value, list):
            return decode(option, value)
        if isinstance(option, type) and isinstance(value, option):
            return value
    return float(value) if float in options else value
