"""Batch, height and width that an exporter fixed are freed; whether the graph then still runs, probing finds out.

The first input with a map names its dims "batch", "height" and "width"; another input takes the same names where it
has the same dims, so one size frees or fixes both.
"""

from __future__ import annotations

import onnx

NAMES = ("batch", "height", "width")


def erase_static_shapes(model: onnx.ModelProto) -> None:
    graph = model.graph
    initializers = {i.name for i in graph.initializer}
    names: dict[object, str] = {}
    for value in graph.input:
        if value.name not in initializers and value.type.HasField("tensor_type"):
            _free_dims(value, names)
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def map_axes(rank: int, dims: list[int | str]) -> tuple[int, int] | None:
    """The axes that hold height and width of an input: NCHW, or NHWC where the last dim is a few fixed channels and
    the second is not."""
    if rank != 4:
        return None

    def few(dim: int | str) -> bool:
        return isinstance(dim, int) and 0 < dim <= 4

    return (1, 2) if few(dims[3]) and not few(dims[1]) else (2, 3)


def read_dims(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]


def _free_dims(value: onnx.ValueInfoProto, names: dict[object, str]) -> None:
    dims = read_dims(value)
    axes = map_axes(len(dims), dims)
    free = {0: NAMES[0]} if dims else {}
    if axes is not None:
        free |= dict(zip(axes, NAMES[1:], strict=True))
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if axis in free:
            same = (free[axis], dims[axis] or value.name)
            default = free[axis] if free[axis] not in names.values() else f"{value.name}.{free[axis]}"
            dim.dim_param = names.setdefault(same if axis else free[axis], default)
