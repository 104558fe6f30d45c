"""ai.foveate::ExitGate, version 1: how many encoder layers each image needs.

The body is stock operators of opset 18. The torch op with the same formulas is `export/early_exit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import defs
from onnx.helper import make_attribute
from onnxscript import script
from onnxscript.values import Opset

from ..domain import DOMAIN, STOCK_OPSET, VERSION, DomainOp

op: Any = Opset("", STOCK_OPSET)

_DOC = """
Chooses an exit for each image from one linear layer over its pooled features (ECO-M2F, arXiv 2404.15244).

    scores s = features · weightᵀ + bias           weight [K, D], given row by row
    depth = exits[argmax(s + offset)]              the first of equal ones

weight, bias and offset are choices: another budget is another gate, or, of a gate whose scores foretell quality, an
offset of −β·exits. An offset far above all scores forces an exit.
"""

_INPUTS = {
    "features": "[B, D]",
    "weight": "[K·D], of each exit after the other",
    "bias": "[K]",
    "offset": "[K], added to the scores before the best one is taken",
}


def _schema() -> defs.OpSchema:
    parameter = defs.OpSchema.FormalParameter
    return defs.OpSchema(
        "ExitGate",
        DOMAIN,
        VERSION,
        _DOC,
        inputs=[parameter(name, "tensor(float)", about) for name, about in _INPUTS.items()],
        outputs=[
            parameter("depth", "tensor(int64)", "number of layers [B], one of `exits`"),
            parameter("scores", "tensor(float)", "s [B, K]"),
        ],
        attributes=[
            defs.OpSchema.Attribute(
                "exits", make_attribute("exits", [1]), "layers behind which one may leave"
            )
        ],
    )


@script(Opset(DOMAIN, VERSION), default_opset=op)
def ExitGate(features, weight, bias, offset, exits: Sequence[int] = (1,)):
    layers = op.Constant(value_ints=exits)
    rows = op.Reshape(weight, op.Concat(op.Shape(layers), op.Constant(value_ints=[-1]), axis=0))
    scores = op.Gemm(features, rows, bias, transB=1)
    best = op.ArgMax(scores + offset, axis=1, keepdims=1)  # two axes: TensorRT-RTX refuses one
    depth = op.Squeeze(op.Gather(layers, best), op.Constant(value_ints=[1]))
    return depth, scores


def _translate(features, weight, bias, offset, exits):
    """The exporter's view of torch.ops.foveate.exit_gate: one node, its body comes later."""
    return Opset(DOMAIN, VERSION).ExitGate(features, weight, bias, offset, exits=list(exits))


OP = DomainOp(
    schema=_schema(),
    function=lambda nodes=(): ExitGate.to_function_proto(),
    kind="exit_gate",
    prefix="gate",
    choices={1: "weight", 2: "bias", 3: "offset"},
    lists=True,
    torch_op="foveate::exit_gate",
    translate=_translate,
)
