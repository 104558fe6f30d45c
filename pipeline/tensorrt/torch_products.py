"""Stock ONNX operators that sum, as functions of torch: products, pools, norms, reductions (see `torch_ops`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ...runtime.errors import ProgramError
from .torch_ops import OPS, Value, ints, known, op, tensor

__all__ = ["OPS"]


def _pads(x: torch.Tensor, pads: Sequence[int] | None, value: float = 0.0) -> torch.Tensor:
    """x padded; most are symmetric, but an operator of torch takes no others."""
    if not pads or not any(pads):
        return x
    half = len(pads) // 2
    flat = [
        amount
        for low, high in zip(pads[:half][::-1], pads[half:][::-1], strict=True)
        for amount in (low, high)
    ]
    return F.pad(x, flat, value=value)


def _explicit(op_type: str, auto_pad: str) -> None:
    if auto_pad not in ("NOTSET", "VALID"):
        raise ProgramError(
            f"{op_type} with auto_pad {auto_pad}",
            got="pads that depend on the size",
            expected="explicit pads",
            fix="Build for tensorrt or cpu, or export with explicit pads.",
        )


@op("Conv")
def conv(
    x, w, b=None, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None
):
    _explicit("Conv", auto_pad)
    run = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    rank = x.ndim - 2
    return run(_pads(x, pads), w, b, strides or [1] * rank, 0, dilations or [1] * rank, group)


@op("ConvTranspose")
def conv_transpose(
    x, w, b=None, dilations=None, group=1, kernel_shape=None, output_padding=None, pads=None, strides=None
):
    rank, pads = x.ndim - 2, pads or [0] * (2 * x.ndim - 4)
    more = output_padding or [0] * rank
    if pads[:rank] != pads[rank:]:  # what is cropped more at the end
        more = [m + low - high for m, low, high in zip(more, pads[:rank], pads[rank:], strict=True)]
    run = {3: F.conv_transpose1d, 4: F.conv_transpose2d}[x.ndim]
    return run(x, w, b, strides or [1] * rank, pads[:rank], more, group, dilations or [1] * rank)


@op("MaxPool")
def max_pool(
    x, kernel_shape, ceil_mode=0, auto_pad="NOTSET", dilations=None, pads=None, storage_order=0, strides=None
):
    _explicit("MaxPool", auto_pad)
    lowest = torch.finfo(x.dtype).min
    strides, rank = strides or [1] * len(kernel_shape), len(kernel_shape)
    pads = pads or [0] * 2 * rank
    if pads[:rank] == pads[rank:]:
        return F.max_pool2d(x, kernel_shape, strides, pads[:rank], dilations or 1, bool(ceil_mode))
    return F.max_pool2d(_pads(x, pads, lowest), kernel_shape, strides, 0, dilations or 1, bool(ceil_mode))


@op("AveragePool")
def average_pool(
    x,
    kernel_shape,
    ceil_mode=0,
    auto_pad="NOTSET",
    count_include_pad=0,
    dilations=None,
    pads=None,
    strides=None,
):
    _explicit("AveragePool", auto_pad)
    rank = len(kernel_shape)
    pads = pads or [0] * 2 * rank
    strides = strides or [1] * rank
    if pads[:rank] == pads[rank:]:
        return F.avg_pool2d(x, kernel_shape, strides, pads[:rank], bool(ceil_mode), bool(count_include_pad))
    mean = F.avg_pool2d(_pads(x, pads), kernel_shape, strides)
    inside = (
        1.0 if count_include_pad else F.avg_pool2d(_pads(torch.ones_like(x), pads), kernel_shape, strides)
    )
    return mean / inside


@op("GlobalAveragePool")
def global_average_pool(x):
    return x.mean([*range(2, x.ndim)], keepdim=True)


@op("Gemm")
def gemm(a, b, c=None, alpha=1.0, beta=1.0, transA=0, transB=0):
    product = torch.matmul(a.mT if transA else a, b.mT if transB else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


@op("Einsum")
def einsum(*values, equation):
    return torch.einsum(equation, *values)


@op("Softmax")
def softmax(x, axis=-1):
    return torch.softmax(x, axis)


@op("LayerNormalization")
def layer_norm(x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
    return F.layer_norm(x, list(scale.shape), scale, bias, epsilon)


@op("InstanceNormalization")
def instance_norm(x, scale, bias, epsilon=1e-5):
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@op("BatchNormalization")
def batch_norm(x, scale, bias, mean, var, epsilon=1e-5, momentum=0.9, training_mode=0):
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def _reduced(function: Callable[[torch.Tensor, list[int], bool], torch.Tensor]) -> Callable[..., Value]:
    def run(x, axes=None, keepdims=1, noop_with_empty_axes=0):
        x = tensor(x)
        if axes is None and noop_with_empty_axes:
            return x
        where = [*range(x.ndim)] if axes is None else axes if isinstance(axes, list) else ints(axes)
        return function(x, [n % x.ndim for n in where], bool(keepdims))

    return run


op("ReduceMean")(_reduced(lambda x, axis, keep: x.mean(axis, keepdim=keep)))
op("ReduceSum")(_reduced(lambda x, axis, keep: x.sum(axis, keepdim=keep)))
op("ReduceSumSquare")(_reduced(lambda x, axis, keep: (x * x).sum(axis, keepdim=keep)))
op("ReduceL2")(_reduced(lambda x, axis, keep: (x * x).sum(axis, keepdim=keep).sqrt()))
op("ReduceL1")(_reduced(lambda x, axis, keep: x.abs().sum(axis, keepdim=keep)))
op("ReduceMax")(_reduced(lambda x, axis, keep: x.amax(axis, keepdim=keep)))
op("ReduceMin")(_reduced(lambda x, axis, keep: x.amin(axis, keepdim=keep)))


@op("ReduceProd")
def reduce_prod(x, axes=None, keepdims=1, noop_with_empty_axes=0):
    if known(x):
        return np.prod(x, keepdims=bool(keepdims))
    for axis in sorted(([*range(x.ndim)] if axes is None else ints(axes)), reverse=True):
        x = x.prod(axis, keepdim=bool(keepdims))
    return x


@op("ArgMax")
def arg_max(x, axis=0, keepdims=1, select_last_index=0):
    return torch.argmax(x, axis, keepdim=bool(keepdims))


@op("CumSum")
def cum_sum(x, axis, exclusive=0, reverse=0):
    x, (where,) = tensor(x), ints(axis)
    found = (x.flip(where) if reverse else x).cumsum(where, dtype=x.dtype)
    found = found.flip(where) if reverse else found
    return found - x if exclusive else found


@op("TopK")
def top_k(x, k, axis=-1, largest=1, sorted=1):
    values, places = torch.topk(x, ints(k)[0], axis, bool(largest), bool(sorted))
    return values, places


@op("Resize")
def resize(x, roi=None, scales=None, sizes=None, coordinate_transformation_mode="half_pixel", mode="nearest",
           nearest_mode="round_prefer_floor", cubic_coeff_a=-0.75, antialias=0, **_):  # fmt: skip
    """Of height and width, as torch's exporter writes them."""
    wanted = ints(sizes)[2:] if sizes is not None else None
    factors = None if scales is None or wanted is not None else [float(s) for s in ints(scales)[2:]]
    if mode == "nearest" and (coordinate_transformation_mode, nearest_mode) == ("asymmetric", "floor"):
        return F.interpolate(x, wanted, factors, "nearest")
    ways = {
        ("linear", "half_pixel"): False,
        ("linear", "pytorch_half_pixel"): False,
        ("linear", "align_corners"): True,
    }
    corners = ways.get((mode, coordinate_transformation_mode))
    if corners is None:
        raise ProgramError(
            f"Resize {mode}, {coordinate_transformation_mode}, {nearest_mode}",
            got="a way that torch does not have",
            expected="linear, or nearest with floor",
            fix="Build for tensorrt or cpu.",
        )
    return F.interpolate(x, wanted, factors, "bilinear", align_corners=corners, antialias=bool(antialias))
