"""Symbolic dims of the manifest: a name ("height"), or a fraction of one, rounded up ("height/4", "width*2/3"), where a
number may be added first ("(height-2)", "(width*2+3)/4")."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from .errors import BundleError
from .manifest import Manifest, TensorSpec

_DIM = re.compile(
    r"^(?P<open>\()?(?P<name>.+?)(\*(?P<times>\d+))?(?(open)(?P<plus>[+-]\d+)\))(/(?P<over>\d+))?$"
)

Symbols = dict[str, Fraction]


@functools.lru_cache(maxsize=4096)
def parse_dim(dim: str) -> tuple[str, Fraction, Fraction]:
    """A dim's symbol, the factor it is multiplied by, and what is added to that. Raises BundleError for a dim that is
    neither a name nor a fraction of one."""
    match = _DIM.match(dim.replace(" ", ""))
    if match is None or match["over"] == "0":
        raise BundleError(
            "a tensor's dim in the manifest",
            got=repr(dim),
            expected="a name, or a fraction of one such as 'height/4'",
            fix="Build the bundle again with `foveate build`.",
        )
    over = int(match["over"] or 1)
    return match["name"], Fraction(int(match["times"] or 1), over), Fraction(int(match["plus"] or 0), over)


def resolve_dim(dim: int | str, symbols: Mapping[str, Fraction]) -> int:
    """The size of a dim. Raises KeyError for a symbol without a value."""
    if isinstance(dim, int):
        return dim
    name, factor, plus = parse_dim(dim)
    return math.ceil(symbols[name] * factor + plus)


def resolve_shape(shape: Sequence[int | str], symbols: Mapping[str, Fraction]) -> tuple[int, ...]:
    return tuple(resolve_dim(dim, symbols) for dim in shape)


def read_symbols(specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]) -> Symbols:
    """The largest value of every symbol that gives these shapes: "height/4" = 3 says that height is at most 12."""
    symbols: Symbols = {}
    for spec in specs:
        for dim, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
            if isinstance(dim, str):
                name, factor, plus = parse_dim(dim)
                value = (size - plus) / factor
                symbols[name] = min(symbols.get(name, value), value)
    return symbols


def symbols_at(manifest: Manifest, shapes: Mapping[str, Sequence[int]]) -> Symbols:
    """The symbols' values for inputs of these shapes; at the plan's sample, for any batch, of all dims."""
    planned = all(tuple(shape[1:]) == tuple(manifest.sample.get(n, ())[1:]) for n, shape in shapes.items())
    own = {name: Fraction(size) for name, size in manifest.sizes.items()} if planned else {}
    return own | read_symbols(manifest.inputs, shapes)


def count_bytes(specs: Sequence[TensorSpec], symbols: Mapping[str, Fraction]) -> int:
    """Bytes of all these tensors together; one with an unknown symbol counts as nothing."""
    total = 0
    for spec in specs:
        try:
            total += math.prod(resolve_shape(spec.shape, symbols)) * np.dtype(spec.dtype).itemsize
        except KeyError:
            continue
    return total
