"""Resize and Upsample by constant scales."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .field import HERE, Field, Fields, from_reads
from .registry import Barrier, Local, NodeView, rule

_MAX_TERM = 64  # scales are read as fractions of at most this denominator


@rule("Resize")
def resize(view: NodeView) -> Local | Barrier:
    if view.name(3):
        return Barrier("its sizes have no common ratio to its input's at the probed resolutions")
    return _by_scales(view, view.value(2) if len(view.node.input) > 2 else view.value(1))


@rule("Upsample")
def upsample(view: NodeView) -> Local | Barrier:
    view.attrs.setdefault("coordinate_transformation_mode", "asymmetric")
    view.attrs.setdefault("nearest_mode", "floor")
    return _by_scales(view, view.value(1))


def _by_scales(view: NodeView, scales: np.ndarray | None) -> Local | Barrier:
    axes = view.axes()
    if scales is None or axes is None or view.data != [0]:
        return Barrier("its scales are not constant")
    given = view.attrs.get("axes", range(len(view.shape())))
    by_axis = {int(a): _fraction(s) for a, s in zip(given, scales, strict=True)}
    if any(abs(float(by_axis[int(a)]) - float(s)) > 1e-6 * s for a, s in zip(given, scales, strict=True)):
        return Barrier(f"scales {scales.tolist()} are no small fractions")
    if any(s != 1 for a, s in by_axis.items() if a not in axes):
        return Barrier("resizes another axis than height and width")
    along = [_field(view, by_axis.get(axis, Fraction(1))) for axis in axes]
    refused = [a for a in along if isinstance(a, Barrier)]
    if refused:
        return refused[0]
    fields: Fields = tuple(a for a in along if isinstance(a, Field))  # pyright: ignore[reportAssignmentType]
    return Local({0: fields}, axes)


def _fraction(scale: float) -> Fraction:
    return Fraction(float(scale)).limit_denominator(_MAX_TERM)


def _field(view: NodeView, scale: Fraction) -> Field | Barrier:
    """Source coordinate x of output o per ONNX's `coordinate_transformation_mode`, then the taps around it."""
    where = view.attrs.get("coordinate_transformation_mode", "half_pixel")
    if where not in ("half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric"):
        return Barrier(f"coordinates by {where} depend on the whole map's size")
    if scale < 1 and (view.attrs.get("antialias") or where == "pytorch_half_pixel"):
        return Barrier(f"shrinks by {scale} with antialias or pytorch_half_pixel")
    if scale == 1:
        return HERE[0]
    half = Fraction(0) if where == "asymmetric" else Fraction(1, 2)
    period = scale.numerator
    x = [(o + half) / scale - half for o in range(period)]
    before, after = _taps(view)
    return from_reads(period, [v + before for v in x], [v + after for v in x], 1 / scale)


def _taps(view: NodeView) -> tuple[Fraction, Fraction]:
    """First and last source position around x: ⌊x + before⌋ … ⌊x + after⌋."""
    mode = view.attrs.get("mode", "nearest")
    if mode == "linear":
        return Fraction(0), Fraction(1)
    if mode == "cubic":
        return Fraction(-1), Fraction(2)
    # nearest: rounding of a tie depends on nearest_mode; the widest of them is one position more at ties only
    rounding = view.attrs.get("nearest_mode", "round_prefer_floor")
    almost = Fraction(_MAX_TERM - 1, _MAX_TERM) + Fraction(1, 2 * _MAX_TERM)
    offset = {"floor": Fraction(0), "ceil": almost, "round_prefer_ceil": Fraction(1, 2)}
    shift = offset.get(rounding, Fraction(1, 2) - Fraction(1, 4 * _MAX_TERM))
    return shift, shift
