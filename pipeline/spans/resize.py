"""Resize and Upsample by constant scales."""

from __future__ import annotations

from ...runtime.native.plan import COORDINATES, RESIZES, ROUNDINGS, Resize
from .registry import LoweredNode, Unsupported, rule


@rule("Resize", "Upsample")
def resize(node: LoweredNode) -> None:
    view = node.view
    upsample = view.node.op_type == "Upsample"
    scales = node.constant(2 if len(view.node.input) > 2 else 1)
    given = view.attrs.get("axes", range(4))
    by_axis = {int(a) % 4: float(s) for a, s in zip(given, scales, strict=True)}
    how = view.attrs.get("mode", "nearest")
    where = view.attrs.get("coordinate_transformation_mode", "asymmetric" if upsample else "half_pixel")
    rounding = view.attrs.get("nearest_mode", "floor" if upsample else "round_prefer_floor")
    if how not in RESIZES or where not in COORDINATES or rounding not in ROUNDINGS:
        raise Unsupported(f"resizes by {how}, {where}, {rounding}")
    if view.attrs.get("antialias") or view.attrs.get("exclude_outside"):
        raise Unsupported("resizes with antialias or exclude_outside")
    if any(by_axis.get(axis, 1.0) != 1.0 for axis in (0, 1)):
        raise Unsupported("resizes channels")
    both = by_axis.get(2, 1.0), by_axis.get(3, 1.0)
    node.builder.ops.append(Resize(node.source(), node.target(), how, where, rounding, both))
