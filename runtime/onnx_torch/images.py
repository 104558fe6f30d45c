"""Operators on maps [N, C, H, W]: convolution, pooling, resampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import Attributes, operator, refused


@operator("Conv")
def conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel, stride, dilation = _window(attributes, weight.shape[2:])
    before, after = _pads(attributes, x.shape[2:], kernel, stride, dilation)
    if before != after:
        x, before = F.pad(x, _flat(before, after)), [0] * len(kernel)
    return torch.convolution(
        x, weight, bias, stride, before, dilation, False, [0] * len(kernel), attributes.get("group", 1)
    )


@operator("ConvTranspose")
def conv_transpose(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel, stride, dilation = _window(attributes, weight.shape[2:])
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in attributes:
        raise refused("ConvTranspose", "auto_pad, or an output_shape", "pads")
    before, after = _pads(attributes, x.shape[2:], kernel, stride, dilation)
    more, groups = attributes.get("output_padding", [0] * len(kernel)), attributes.get("group", 1)
    if before == after:
        return torch.convolution(x, weight, bias, stride, before, dilation, True, more, groups)
    whole = torch.convolution(x, weight, bias, stride, [0] * len(kernel), dilation, True, more, groups)
    for axis, (low, high) in enumerate(zip(before, after, strict=True), 2):
        whole = whole.narrow(axis, low, whole.shape[axis] - low - high)
    return whole


@operator("MaxPool")
def max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel, stride, dilation = _window(attributes, attributes["kernel_shape"])
    before, after = _pads(attributes, x.shape[2:], kernel, stride, dilation)
    if before != after or any(2 * pad > side for pad, side in zip(before, kernel, strict=True)):
        x, before = F.pad(x, _flat(before, after), value=torch.finfo(x.dtype).min), [0] * len(kernel)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel)]
    return pool(x, kernel, stride, before, dilation, bool(attributes.get("ceil_mode", 0)))


@operator("AveragePool")
def average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel, stride, dilation = _window(attributes, attributes["kernel_shape"])
    before, after = _pads(attributes, x.shape[2:], kernel, stride, dilation)
    if any(n != 1 for n in dilation):
        raise refused("AveragePool", "dilations", "none")
    average = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
    ceil, counts = bool(attributes.get("ceil_mode", 0)), bool(attributes.get("count_include_pad", 0))
    if before == after:
        return average(x, kernel, stride, before, ceil, counts)
    flat = _flat(before, after)
    found = average(F.pad(x, flat), kernel, stride, 0, ceil)
    return found if counts else found / average(F.pad(torch.ones_like(x), flat), kernel, stride, 0, ceil)


@operator("GlobalAveragePool")
def global_average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("Resize", host=[1, 2, 3])
def resize(
    attributes: Attributes,
    x: Tensor,
    region: list[float] | None = None,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
) -> Tensor:
    """As torch's interpolate does it, which is what exporters of torch write down: with antialias it leaves out what is
    outside, and has another cubic."""
    mode = attributes.get("mode", "nearest")
    place = attributes.get("coordinate_transformation_mode", "half_pixel")
    known = {
        ("nearest", "asymmetric"): ("nearest", None),
        ("linear", "half_pixel"): ("linear", False),
        ("linear", "pytorch_half_pixel"): ("linear", False),
        ("linear", "align_corners"): ("linear", True),
        ("cubic", "half_pixel"): ("bicubic", False),
        ("cubic", "align_corners"): ("bicubic", True),
    }
    nearest = attributes.get("nearest_mode", "round_prefer_floor")
    smooth, inside = bool(attributes.get("antialias", 0)), bool(attributes.get("exclude_outside", 0))
    bend = attributes.get("cubic_coeff_a", -0.75)
    if (
        (mode, place) not in known
        or (mode == "nearest" and (nearest != "floor" or smooth))
        or (mode == "cubic" and (bend, inside) != ((-0.5, True) if smooth else (-0.75, False)))
        or (smooth and not (inside and place == "half_pixel"))
    ):
        raise refused(
            "Resize",
            f"mode {mode}, {place}, {nearest}, antialias {smooth}, exclude_outside {inside}, cubic_coeff_a {bend}",
            "what torch's interpolate does",
        )
    kind, corners = known[mode, place]
    rank = x.ndim - 2
    kind = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank] if kind == "linear" else kind
    axes = attributes.get("axes", list(range(x.ndim)))
    size = factors = None
    if sizes:
        by_axis = dict(zip(axes, sizes, strict=True))
        size = [by_axis.get(axis, x.shape[axis]) for axis in range(2, x.ndim)]
    else:
        by_scale = dict(zip(axes, scales or [], strict=True))
        factors = [float(by_scale.get(axis, 1.0)) for axis in range(2, x.ndim)]
    return F.interpolate(x, size, factors, kind, align_corners=corners, antialias=smooth)


@operator("GridSample")
def grid_sample(attributes: Attributes, x: Tensor, grid: Tensor) -> Tensor:
    kind: str = attributes.get("mode", "linear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(kind, kind)
    padding, corners = attributes.get("padding_mode", "zeros"), bool(attributes.get("align_corners", 0))
    return F.grid_sample(x, grid, mode, padding, corners)


def _window(attributes: Attributes, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Kernel, stride and dilation."""
    ones = [1] * len(kernel)
    return list(kernel), attributes.get("strides", ones), attributes.get("dilations", ones)


def _pads(
    attributes: Attributes,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Before and after each axis."""
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        pads = attributes.get("pads", [0] * 2 * len(kernel)) if auto == "NOTSET" else [0] * 2 * len(kernel)
        return list(pads[: len(kernel)]), list(pads[len(kernel) :])
    if not all(isinstance(n, int) for n in size):
        raise refused("a window", f"auto_pad {auto} of a size that is free", "pads")
    before, after = [], []
    for n, side, step, spread in zip(size, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // step) - 1) * step + spread * (side - 1) + 1 - n)
        few = total // 2
        before.append(few if auto == "SAME_UPPER" else total - few)
        after.append(total - before[-1])
    return before, after


def _flat(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """As torch's `pad` has it: from the last axis on."""
    pairs = list(zip(before, after, strict=True))
    return [n for pair in reversed(pairs) for n in pair]
