"""ai.foveate::ExitSelect, version 1: an image takes what it had where it left, or what came behind.

The body is stock operators of opset 18. The torch op with the same formulas is `export/early_exit.py`.
"""

from __future__ import annotations

from typing import Any

from onnx import defs
from onnx.helper import make_attribute
from onnxscript import script
from onnxscript.values import Opset

from ..domain import DOMAIN, STOCK_OPSET, VERSION, DomainOp

op: Any = Opset("", STOCK_OPSET)

_DOC = """
chosen = shallow for images with depth ≤ exit, deep for the others.

Chained, from the deepest exit to the first: the last `deep` is the full encoder's, and each `shallow` is what its
layers had made up to that exit. Stock runtimes compute all layers and select, which is the dense reference.
"""


def _schema() -> defs.OpSchema:
    parameter = defs.OpSchema.FormalParameter
    return defs.OpSchema(
        "ExitSelect",
        DOMAIN,
        VERSION,
        _DOC,
        inputs=[
            parameter("depth", "tensor(int64)", "[B]"),
            parameter("shallow", "T", "[B, …], behind `exit` layers"),
            parameter("deep", "T", "its shape, behind more"),
        ],
        outputs=[parameter("chosen", "T", "its shape")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "one type")],
        attributes=[defs.OpSchema.Attribute("exit", make_attribute("exit", 1), "layers behind `shallow`")],
    )


@script(Opset(DOMAIN, VERSION), default_opset=op)
def ExitSelect(depth, shallow, deep, exit: int = 1):
    leaves = depth <= op.Constant(value_int=exit)
    one = op.Constant(value_ints=[1])
    others = op.Expand(one, op.Shape(op.Shape(shallow)) - one)  # a 1 for each axis but the batch
    chosen = op.Where(
        op.Reshape(leaves, op.Concat(op.Constant(value_ints=[-1]), others, axis=0)), shallow, deep
    )
    return chosen


def _translate(depth, shallow, deep, exit: int):
    """The exporter's view of torch.ops.foveate.exit_select: one node, its body comes later."""
    return Opset(DOMAIN, VERSION).ExitSelect(depth, shallow, deep, exit=exit)


OP = DomainOp(
    schema=_schema(),
    function=lambda nodes=(): ExitSelect.to_function_proto(),
    kind="exit_select",
    prefix="exit",
    torch_op="foveate::exit_select",
    translate=_translate,
)
