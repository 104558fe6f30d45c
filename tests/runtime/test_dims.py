"""Symbolic dims."""

from __future__ import annotations

from fractions import Fraction

import pytest
from foveate.runtime.dims import count_bytes, parse_dim, read_symbols, resolve_shape
from foveate.runtime.errors import BundleError
from foveate.runtime.manifest import TensorSpec


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        ("height", ("height", 1, 0)),
        ("height/4", ("height", Fraction(1, 4), 0)),
        ("width*2/3", ("width", Fraction(2, 3), 0)),
        ("w*2", ("w", 2, 0)),
        ("(h-2)", ("h", 1, -2)),
        ("(w*2+3)/4", ("w", Fraction(1, 2), Fraction(3, 4))),
        ("batch-1", ("batch-1", 1, 0)),
    ],
)
def test_a_dim_is_a_name_or_a_fraction_of_one(dim: str, expected: tuple[str, Fraction, Fraction]):
    assert parse_dim(dim) == expected


def test_no_dim_divides_by_zero():
    with pytest.raises(BundleError, match="height/0"):
        parse_dim("height/0")


def test_shapes_round_up():
    symbols = {"b": Fraction(2), "h": Fraction(9), "w": Fraction(7)}
    assert resolve_shape(("b", 3, "h/4", "w*2"), symbols) == (2, 3, 3, 14)
    assert resolve_shape(("(h-2)", "(w-3)/2", "(w*2+1)"), symbols) == (7, 2, 15)


def test_symbols_are_the_largest_that_give_the_shapes():
    specs = (TensorSpec("x", "float32", ("b", "h/4")), TensorSpec("y", "float32", ("b", "h/2")))
    assert read_symbols(specs, {"x": (2, 3), "y": (2, 5)}) == {"b": 2, "h": 10}


def test_bytes_leave_out_what_is_unknown():
    specs = (TensorSpec("x", "float32", ("b", 5)), TensorSpec("y", "float16", ("u",)))
    assert count_bytes(specs, {"b": Fraction(2)}) == 40
