"""Symbolic dims: which dims of a program's inputs may change, and every other tensor's dims in terms of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import onnx

from ..runtime.errors import InputError
from .normalize.static_shapes import read_dims

if TYPE_CHECKING:
    from .probe import Probes

BATCH = "batch"
Sizes = dict[str, int]


def symbols_of(program: onnx.ModelProto, inputs: Sequence[str], sample: Mapping[str, Sequence[int]]) -> Sizes:
    """The value that each symbolic input dim has at the sample's shapes. Raises InputError where they do not fit."""
    sizes: Sizes = {}
    for value in program.graph.input:
        if value.name not in inputs:
            continue
        dims, shape = read_dims(value), tuple(sample.get(value.name, ()))
        fits = len(dims) == len(shape) and all(
            d == n if isinstance(d, int) else sizes.setdefault(d, n) == n
            for d, n in zip(dims, shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"sample shape of input {value.name!r}",
                got=f"{list(shape)}" if shape else "none",
                expected=f"{dims}",
                fix="Pass one shape per input, e.g. --sample 1,3,224,224.",
            )
    return sizes


def resolve(value: onnx.ValueInfoProto, sizes: Sizes) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else sizes[d] for d in read_dims(value))


def fit_shape(name: str, probes: Probes) -> tuple[int | str, ...]:
    """A tensor's dims as TensorSpec has them. One that is no fraction of an input dim gets a symbol of its own."""
    seen = [p.shapes[name] for p in probes.runs if name in p.shapes]
    if len({len(s) for s in seen}) != 1:
        return ()
    sizes = [p.sizes for p in probes.runs if name in p.shapes]
    return tuple(
        _fit_dim(f"{name}.{axis}", values, sizes) for axis, values in enumerate(zip(*seen, strict=True))
    )


def _fit_dim(own: str, values: tuple[int, ...], sizes: Sequence[Sizes]) -> int | str:
    if len(set(values)) == 1:
        return values[0]
    for symbol in sizes[0]:
        ratios = [Fraction(v, s[symbol]) for v, s in zip(values, sizes, strict=True)]
        for ratio in sorted(set(ratios), key=lambda r: r.numerator + r.denominator):
            if all(math.ceil(s[symbol] * ratio) == v for v, s in zip(values, sizes, strict=True)):
                times = f"*{ratio.numerator}" if ratio.numerator > 1 else ""
                over = f"/{ratio.denominator}" if ratio.denominator > 1 else ""
                return f"{symbol}{times}{over}"
    return own.replace("/", "_").replace("*", "_")
