"""Dirtiness: by which mask tensors and boundary tensors, through which fields, a tensor's changes are bounded.

A Mul by a mask tensor cuts: its output differs from the reference state only where the mask is nonzero, whatever the
other operand does, because in the reference state the mask is 0 everywhere.
"""

from __future__ import annotations

from fractions import Fraction

from ..runtime.manifest import Term
from .analyze.analysis import NodeInfo
from .analyze.field import HERE, Fields, compose

Strides = tuple[Fraction, Fraction]
Terms = dict[tuple[str, Strides], Fields]  # by source and stride, so that equal strides merge into their hull

EVERYWHERE = None  # in the place of Terms: nothing bounds it


def from_source(name: str) -> Terms:
    return {(name, (Fraction(1), Fraction(1))): HERE}


def through(node: NodeInfo, masks: frozenset[str], known: dict[str, Terms | None]) -> Terms | None:
    """The terms of a local node's outputs, from those of its inputs."""
    cutting = [name for name in node.fields if name in masks] if node.op == "Mul" else []
    if cutting:
        return from_source(cutting[0])
    terms: Terms = {}
    for name, fields in node.fields.items():
        source = from_source(name) if name in masks else known.get(name, EVERYWHERE)
        if source is None:
            return EVERYWHERE
        for (origin, _), inner in source.items():
            merge(terms, origin, compose(fields, inner))
    return terms


def merge(terms: Terms, origin: str, fields: Fields) -> None:
    key = origin, (fields[0].stride, fields[1].stride)
    old = terms.get(key)
    terms[key] = fields if old is None else (old[0].hull(fields[0]), old[1].hull(fields[1]))


def to_manifest(terms: Terms) -> tuple[Term, ...]:
    return tuple(
        Term(
            origin,
            (y.stride.numerator, x.stride.numerator),
            (y.stride.denominator, x.stride.denominator),
            (y.low, x.low),
            (y.high, x.high),
        )
        for (origin, _), (y, x) in terms.items()
    )
