"""Ops that mix channels at each position, and barriers where the same ops mix positions."""

from __future__ import annotations

from fractions import Fraction

from .field import HERE, Field
from .registry import Barrier, Local, NodeView, rule

_END = 1 << 30  # ONNX exporters write "to the end" as a very large number


@rule("Concat")
def concat(view: NodeView) -> Local | Barrier:
    axes = view.axes(view.data[0])
    if any(view.axes(i) != axes for i in view.data) or axes is None:
        return Barrier("not all of its operands are maps on the same axes")
    if len(view.data) < len(view.node.input):
        return Barrier("joins a constant map")
    if view.axis(len(view.out_shape())) in axes:
        return Barrier("joins maps along height or width")
    return Local(dict.fromkeys(view.data, HERE), axes)


@rule("Split", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def along_axis(view: NodeView) -> Local | Barrier:
    axes, rank = view.axes(), len(view.shape())
    flattens = view.opset < 13 and view.node.op_type in ("Softmax", "LogSoftmax", "Hardmax")
    axis = view.axis(rank, default=0 if view.node.op_type == "Split" else 1 if flattens else -1)
    if flattens and axis < rank - 1:
        return Barrier("normalizes over all axes from its own on, as it did before opset 13")
    if axes is None or view.data != [0] or axis in axes:
        return Barrier("works along height or width")
    return Local({0: HERE}, axes)


@rule("LayerNormalization", "RMSNormalization")
def layer_norm(view: NodeView) -> Local | Barrier:
    axes = view.axes()
    if axes is None or view.data != [0] or view.axis(len(view.shape())) <= max(axes):
        return Barrier("normalizes over positions")
    return Local({0: HERE}, axes)


@rule("MatMul")
def matmul(view: NodeView) -> Local | Barrier:
    axes = view.axes(0)
    last = len(view.shape(0)) - 1
    if view.data != [0] or axes is None:
        return Barrier("multiplies two maps, or a map from the right: attention over positions")
    if last in axes or len(view.shape(1)) != 2:
        return Barrier("mixes positions")
    return Local({0: HERE}, axes)


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd",
      "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin")  # fmt: skip
def reduce(view: NodeView) -> Local | Barrier:
    axes, rank = view.axes(), len(view.shape())
    if axes is None:
        return Barrier("reads no map")
    if view.node.op_type.startswith("Arg"):
        over = [view.axis(rank, default=0)]
    else:
        given = view.attrs.get("axes") if "axes" in view.attrs else view.value(1)
        over = [] if given is None else [int(a) % rank for a in given]
    if not over or set(over) & set(axes):
        return Barrier("reduces over height or width")
    if view.attrs.get("keepdims", 1):
        return Local({0: HERE}, axes)
    h, w = (a - sum(o < a for o in over) for a in axes)
    return Local({0: HERE}, (h, w))


@rule("Gather")
def gather(view: NodeView) -> Local | Barrier:
    axes = view.axes(0)
    axis = view.axis(len(view.shape(0)), default=0)
    if view.data != [0] or axes is None or axis in axes:
        return Barrier("picks positions by index")
    more = len(view.shape(1)) - 1
    h, w = (a + more if a > axis else a for a in axes)
    return Local({0: HERE}, (h, w))


@rule("Slice")
def crop(view: NodeView) -> Local | Barrier:
    """Along height or width only where the end is counted from the map's end."""
    axes, rank = view.axes(), len(view.shape())
    starts, ends, over, steps = slice_operands(view, rank)
    if axes is None or starts is None or ends is None:
        return Barrier("its bounds are not constant")
    along = {a: HERE[0] for a in axes}
    spare = dict.fromkeys(axes, 0)
    for start, end, axis, step in zip(starts, ends, over, steps, strict=True):
        if axis in axes:
            if start < 0 or step < 1 or 0 <= end < _END:
                return Barrier("cuts the map at a fixed position")
            along[axis] = Field(Fraction(step), start, start)
            spare[axis] = min(end, 0) - start + step - 1
    return Local({0: (along[axes[0]], along[axes[1]])}, axes, (spare[axes[0]], spare[axes[1]]))


def slice_operands(view: NodeView, rank: int):
    """starts, ends, axes, steps as lists of int; no starts and ends (None) where any is computed."""
    if "starts" in view.attrs:  # before opset 10
        starts, ends = view.attrs["starts"], view.attrs["ends"]
        return starts, ends, [a % rank for a in view.attrs.get("axes", range(len(starts)))], [1] * len(starts)
    starts, ends, over, steps = (view.value(i) for i in (1, 2, 3, 4))
    if starts is None or ends is None or (over is None and view.name(3)) or (steps is None and view.name(4)):
        return None, None, [], []
    count = len(starts)
    axes = list(range(count)) if over is None else [int(a) % rank for a in over]
    strides = [1] * count if steps is None else [int(s) for s in steps]
    return [int(s) for s in starts], [int(e) for e in ends], axes, strides


@rule("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization")
def over_the_map(view: NodeView) -> Barrier:
    return Barrier("normalizes over the whole map")


@rule("Flatten", "Attention", "MultiHeadAttention", "TopK", "NonMaxSuppression", "GridSample", "RoiAlign", "CumSum",
      "GatherElements", "GatherND", "ScatterND", "ScatterElements", "NonZero", "Gemm", "Einsum", "LSTM", "GRU", "If",
      "Loop", "Scan", "DeformConv")  # fmt: skip
def mixes(view: NodeView) -> Barrier:
    return Barrier("mixes distant positions")
