"""ai.foveate::DeformableSample, version 1: what queries read of several maps, at points of their own.

Two bodies of stock operators of opset 18: by GridSample, and by Gather for runtimes that get GridSample wrong
(`with_gathers`). Foveate's native kernel takes the node itself. The torch op with the same formulas is
`export/deformable_sample.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import FunctionProto, NodeProto, defs
from onnx.helper import make_attribute
from onnxscript.values import Opset

from ..domain import DOMAIN, STOCK_OPSET, VERSION, DomainOp

_DOC = """
The reading of multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3), of all levels:

    read(q) = Σ_levels Σ_points weight(q, level, point) · map_level(location(q, level, point))    for each head

where map_level is read bilinearly, and is zero outside. A location is (x, y) in shares of its map, 0 its left or upper
border, 1 its other. What one reads that is not finite, or 2³¹ positions away, is left open.
"""

_INPUTS = {
    "value": (
        "tensor(float)",
        "tokens [B, S, heads, C]: level after level, row by row, S = Σ height · width",
    ),
    "sizes": ("tensor(int64)", "(height, width) of each level's map [L, 2]"),
    "locations": ("tensor(float)", "[B, Q, heads, L, P, 2], (x, y) in shares of the level's map"),
    "weights": ("tensor(float)", "[B, Q, heads, L, P]"),
}


def _schema() -> defs.OpSchema:
    parameter = defs.OpSchema.FormalParameter
    return defs.OpSchema(
        "DeformableSample",
        DOMAIN,
        VERSION,
        _DOC,
        inputs=[parameter(name, *said) for name, said in _INPUTS.items()],
        outputs=[parameter("read", "tensor(float)", "[B, Q, heads · C]")],
        attributes=[defs.OpSchema.Attribute("levels", make_attribute("levels", 1), "L")],
    )


def body(nodes: Sequence[NodeProto] = ()) -> FunctionProto:
    """By GridSample, written out for the number of levels that all nodes of a file have; for several, by Gather."""
    levels = {next((a.i for a in node.attribute if a.name == "levels"), 1) for node in nodes}
    return _by_grid_sample(levels.pop()) if len(levels) == 1 else gather_body()


def with_gathers(model: onnx.ModelProto) -> None:
    """Gives the model's nodes the body by Gather, in place of theirs. Foveate's own engines need none: a build takes
    the other one again."""
    for function in model.functions:
        if (function.domain, function.name) == (DOMAIN, "DeformableSample"):
            function.CopyFrom(gather_body())


def _by_grid_sample(levels: int) -> FunctionProto:
    each = range(levels)
    lines = [
        *("axis1 = Constant <value_ints = [1]> ()", "axis3 = Constant <value_ints = [3]> ()"),
        *("pair = Constant <value_ints = [2]> ()", "rest = Constant <value_ints = [-1]> ()"),
        *("one = Constant <value_float = 1.0> ()", "two = Constant <value_float = 2.0> ()"),
        "batch = Shape <start = 0, end = 1> (value)",
        "channels = Shape <start = 3, end = 4> (value)",
        "queries = Shape <start = 1, end = 2> (weights)",
        "points = Shape <start = 4, end = 5> (weights)",
        "grid_shape = Concat <axis = 0> (rest, queries, points, pair)",
        "share_shape = Concat <axis = 0> (rest, axis1, queries, points)",
        "read_shape = Concat <axis = 0> (batch, rest, queries)",
        "doubled = Mul (locations, two)",
        "from_middle = Sub (doubled, one)",  # borders are at -1 and 1
        "grids = Transpose <perm = [0, 2, 1, 3, 4, 5]> (from_middle)",  # [B, heads, Q, L, P, 2]
        "shares = Transpose <perm = [0, 2, 1, 3, 4]> (weights)",  # [B, heads, Q, L, P]
        "planes = Transpose <perm = [0, 2, 3, 1]> (value)",  # [B, heads, C, S]
        "areas = ReduceProd <keepdims = 0> (sizes, axis1)",
        f"{', '.join(f'plane{n}' for n in each)} = Split <axis = 3> (planes, areas)",
    ]
    for n in each:
        lines += [
            f"level{n} = Constant <value_int = {n}> ()",
            f"size{n} = Gather <axis = 0> (sizes, level{n})",
            f"map_shape{n} = Concat <axis = 0> (rest, channels, size{n})",
            f"map{n} = Reshape (plane{n}, map_shape{n})",  # [B · heads, C, h, w]
            f"grids{n} = Gather <axis = 3> (grids, level{n})",
            f"grid{n} = Reshape (grids{n}, grid_shape)",  # [B · heads, Q, P, 2]
            f'seen{n} = GridSample <mode = "bilinear"> (map{n}, grid{n})',  # [B · heads, C, Q, P]
            f"shares{n} = Gather <axis = 3> (shares, level{n})",
            f"share{n} = Reshape (shares{n}, share_shape)",  # [B · heads, 1, Q, P]
            f"weighted{n} = Mul (seen{n}, share{n})",
            f"sum{n} = ReduceSum <keepdims = 0> (weighted{n}, axis3)",
            f"upto{n} = Add (upto{n - 1}, sum{n})" if n else "upto0 = Identity (sum0)",
        ]
    lines += [f"rows = Reshape (upto{levels - 1}, read_shape)", "read = Transpose <perm = [0, 2, 1]> (rows)"]
    return _function(lines, f"for levels = {levels}")


def gather_body() -> FunctionProto:
    """For any number of levels. Each of a point's four neighbours is a row of value, which lies there for all heads and
    images one after the other; where there is none, the first token's is taken with a share of zero."""
    lines = [
        *("zero = Constant <value_int = 0> ()", "one = Constant <value_int = 1> ()"),
        *("axis1 = Constant <value_ints = [1]> ()", "rest = Constant <value_ints = [-1]> ()"),
        *("nothing = Constant <value_float = 0.0> ()", "next = Constant <value_float = 1.0> ()"),
        "half = Constant <value_float = 0.5> ()",
        "of_images = Constant <value_ints = [-1, 1, 1, 1, 1]> ()",
        "of_heads = Constant <value_ints = [-1, 1, 1]> ()",
        "row_shape = Constant <value_ints = [0, 0, 0, -1]> ()",
        "share_shape = Constant <value_ints = [0, 0, 0, 1, -1]> ()",
        "read_shape = Constant <value_ints = [0, 0, -1]> ()",
        "shape = Shape (value)",
        "batch, tokens, heads, channels = Split <axis = 0, num_outputs = 4> (shape)",
        "row_length = Concat <axis = 0> (rest, channels)",
        "rows = Reshape (value, row_length)",  # [B · S · heads, C]
        *("images = Squeeze (batch)", "image_numbers = Range (zero, images, one)"),
        *("image = Reshape (image_numbers, of_images)", "before_image = Mul (image, tokens)"),
        *("head_count = Squeeze (heads)", "head_numbers = Range (zero, head_count, one)"),
        "head = Reshape (head_numbers, of_heads)",
        *("areas = ReduceProd (sizes, axis1)", "ends = CumSum (areas, zero)"),  # [L, 1]
        *("before_level = Sub (ends, areas)", "before = Add (before_image, before_level)"),
        "row_height, row_width = Split <axis = 1, num_outputs = 2> (sizes)",  # [L, 1]
        *("height = Cast <to = 1> (row_height)", "width = Cast <to = 1> (row_width)"),
        "shares_x, shares_y = Split <axis = 5, num_outputs = 2> (locations)",
        *("share_x = Squeeze (shares_x, rest)", "share_y = Squeeze (shares_y, rest)"),  # [B, Q, heads, L, P]
        *(
            "along_x = Mul (share_x, width)",
            "x = Sub (along_x, half)",
        ),  # in positions: 0 is the first's middle
        *("along_y = Mul (share_y, height)", "y = Sub (along_y, half)"),
        *("x0 = Floor (x)", "x1 = Add (x0, next)", "to_x1 = Sub (x, x0)", "to_x0 = Sub (next, to_x1)"),
        *("y0 = Floor (y)", "y1 = Add (y0, next)", "to_y1 = Sub (y, y0)", "to_y0 = Sub (next, to_y1)"),
    ]
    for axis, size in (("x", "width"), ("y", "height")):
        for n in (0, 1):
            lines += [
                f"low_{axis}{n} = GreaterOrEqual ({axis}{n}, nothing)",
                f"high_{axis}{n} = Less ({axis}{n}, {size})",
                f"has_{axis}{n} = And (low_{axis}{n}, high_{axis}{n})",
                f"safe_{axis}{n} = Where (has_{axis}{n}, {axis}{n}, nothing)",
                f"at_{axis}{n} = Cast <to = 7> (safe_{axis}{n})",
                f"part_{axis}{n} = Where (has_{axis}{n}, to_{axis}{n}, nothing)",
            ]
    taps = [(v, h) for v in (0, 1) for h in (0, 1)]
    for number, (v, h) in enumerate(taps):
        t = f"{v}{h}"
        lines += [
            f"line{t} = Mul (at_y{v}, row_width)",
            f"place{t} = Add (line{t}, at_x{h})",
            f"token{t} = Add (before, place{t})",
            f"first{t} = Mul (token{t}, heads)",
            f"each{t} = Add (first{t}, head)",
            f"row{t} = Reshape (each{t}, row_shape)",
            f"seen{t} = Gather <axis = 0> (rows, row{t})",  # [B, Q, heads, L · P, C]
            f"part{t} = Mul (part_y{v}, part_x{h})",
            f"weighted{t} = Mul (part{t}, weights)",
            f"share{t} = Reshape (weighted{t}, share_shape)",
            f"sum{t} = MatMul (share{t}, seen{t})",
            f"upto{number} = Add (upto{number - 1}, sum{t})" if number else f"upto0 = Identity (sum{t})",
        ]
    return _function([*lines, "read = Reshape (upto3, read_shape)"])


def _function(lines: Sequence[str], doc: str = "") -> FunctionProto:
    text = "\n  ".join(lines)
    head = f'<opset_import: ["" : {STOCK_OPSET}], domain: "{DOMAIN}">\nDeformableSample <levels> ({", ".join(_INPUTS)})'
    function = onnx.parser.parse_function(f"{head} => (read) {{\n  {text}\n}}")
    function.doc_string = doc
    return function


def _translate(value, sizes, locations, weights):
    """The exporter's view of torch.ops.foveate.deformable_sample: one node, its body comes later."""
    return Opset(DOMAIN, VERSION).DeformableSample(value, sizes, locations, weights, levels=weights.shape[3])


OP = DomainOp(
    schema=_schema(),
    function=body,
    kind="",
    prefix="sample",
    torch_op="foveate::deformable_sample",
    translate=_translate,
)
