"""Symbolic dims: which dims of a program's inputs may change, and every other tensor's dims in terms of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import onnx

from ..runtime.errors import InputError
from ..runtime.manifest import TensorSpec
from .normalize.static_shapes import read_dims

if TYPE_CHECKING:
    from .probe import Probes

BATCH = "batch"
_STRIDES = [(1, 1), (1, 2), (2, 1), *((1, 2**k) for k in range(2, 6)), *((2**k, 1) for k in range(2, 6))]
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
    """A tensor's dims as TensorSpec has them. One that does not follow from an input dim in the way of
    runtime/dims.py gets a symbol of its own."""
    seen = [p.shapes[name] for p in probes.runs if name in p.shapes]
    if len({len(s) for s in seen}) != 1:
        return ()
    sizes = [p.sizes for p in probes.runs if name in p.shapes]
    return tuple(
        _fit_dim(_own(name, axis), values, sizes) for axis, values in enumerate(zip(*seen, strict=True))
    )


def unfounded_sizes(specs: Sequence[TensorSpec], inputs: Sequence[str], probes: Probes) -> Sizes:
    """The sizes at the sample of those of the tensors' symbols that are none of the inputs'."""
    return {
        dim: probes.sample.shapes[spec.name][axis]
        for spec in specs
        if spec.name not in inputs
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str) and dim == _own(spec.name, axis)
    }


def _own(name: str, axis: int) -> str:
    return f"{name}.{axis}".replace("/", "_").replace("*", "_")


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
    for symbol in sizes[0]:
        for times, over in _STRIDES:
            # ⌈(symbol · times + plus) ÷ over⌉, for each run, if plus lies between these.
            low = max(over * (v - 1) - s[symbol] * times + 1 for v, s in zip(values, sizes, strict=True))
            high = min(over * v - s[symbol] * times for v, s in zip(values, sizes, strict=True))
            if low <= high:
                scaled = f"{symbol}*{times}" if times > 1 else symbol
                return f"({scaled}{min(max(low, 0), high):+d})" + (f"/{over}" if over > 1 else "")
    return own
