"""ai.foveate::EnergyMask, version 1: which positions of a feature map later layers compute.

The body is stock operators of opset 18, so any runtime that inlines functions runs it. The torch op with the
same formulas is `export/energy_mask.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import FunctionProto, NodeProto, TensorProto, defs
from onnx.helper import make_attribute, make_node
from onnxscript import script
from onnxscript.values import Opset

from ..domain import DOMAIN, STOCK_OPSET, VERSION, DomainOp

op: Any = Opset("", STOCK_OPSET)  # onnxscript declares that its operators return None

_DOC = """
Scores every patch of a feature map and keeps those that are worth computing (ERSM, arXiv 2604.06893).

x is zero-padded at the bottom and right to a multiple of `patch`; a token t_i is one patch, in the order of
SpaceToDepth.

    u_i = t_i / (‖t_i‖ + 1e-6)
    logits z_i = weight·u_i + bias
    keep probability m_i = sigmoid(−z_i / temperature)
    energy E_i = lambda·softplus(z_i) + gamma·softplus(Σ u_i·u_j over the 8 neighbours j, 0 outside)

A position is kept where its token has m_i > threshold. Tokens are ranked by z (lowest first), not by energy.
threshold, temperature, lambda and gamma are choices: inputs, so that no change of them needs a new program.
"""


def _schema() -> defs.OpSchema:
    def tensor(name: str, about: str, kind: str = "tensor(float)") -> defs.OpSchema.FormalParameter:
        return defs.OpSchema.FormalParameter(name, kind, about)

    def integer(name: str, value: int, about: str) -> defs.OpSchema.Attribute:
        return defs.OpSchema.Attribute(name, make_attribute(name, value), about)

    return defs.OpSchema(
        "EnergyMask",
        DOMAIN,
        VERSION,
        _DOC,
        inputs=[
            tensor("x", "features [B, C, H, W]", "T"),
            tensor("weight", "unary weight [1, C·patch², 1, 1], index (dy·patch + dx)·C + c"),
            tensor("bias", "unary bias [1]"),
            tensor("threshold", "scalar; kept where m > threshold"),
            tensor("temperature", "scalar > 0"),
            tensor("lambda", "scalar; price of the unary term"),
            tensor("gamma", "scalar; price of the pairwise term"),
        ],
        outputs=[
            tensor("keep", "[B, 1, H, W]: 0 where inactive, else 1 (or m where soft = 1)", "T"),
            tensor("logits", "z [B, 1, ⌈H/patch⌉, ⌈W/patch⌉]"),
            tensor("energy", "E, shape of logits"),
        ],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "features and keep have one type")],
        attributes=[
            integer("patch", 1, "side of a patch, in positions"),
            integer("soft", 0, "0: keep is 0 or 1; 1: keep is m where kept"),
        ],
    )


@script(Opset(DOMAIN, VERSION), default_opset=op)
def EnergyMask(x, weight, bias, threshold, temperature, lam, gamma, patch: int = 1, soft: int = 0):
    side = op.Constant(value_int=patch)
    size = op.Shape(x, start=2, end=4)
    missing = op.Mod(side - op.Mod(size, side), side)
    pads = op.Concat(op.Constant(value_ints=[0, 0, 0, 0, 0, 0]), missing, axis=0)
    padded = op.Pad(op.Cast(x, to=TensorProto.FLOAT), pads)
    tokens = op.SpaceToDepth(padded, blocksize=patch)

    channels = op.Constant(value_ints=[1])
    length = op.ReduceL2(tokens, channels, keepdims=1)
    norm = length + op.Constant(value_float=1e-6)
    logits = op.Conv(tokens, weight) / norm + bias

    units = tokens / norm
    block = op.AveragePool(units, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    own = length / norm  # ‖u_i‖: the block's sum has u_i itself in it
    coherence = op.ReduceSum(units * block, channels, keepdims=1) * op.Constant(value_float=9.0) - own * own
    energy = lam * op.Softplus(logits) + gamma * op.Softplus(coherence)

    probability = op.Sigmoid(op.Neg(logits) / temperature)
    kept = probability > threshold
    hard = op.Cast(kept, to=TensorProto.FLOAT)
    weighted = op.Where(kept, probability, op.Constant(value_float=0.0))
    chosen = op.Where(op.Cast(op.Constant(value_int=soft), to=TensorProto.BOOL), weighted, hard)

    scale = op.Reshape(op.Cast(side, to=TensorProto.FLOAT), op.Constant(value_ints=[1]))
    scales = op.Concat(op.Constant(value_floats=[1.0, 1.0]), scale, scale, axis=0)
    whole = op.Resize(
        chosen,
        None,
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    cropped = op.Slice(whole, op.Constant(value_ints=[0, 0]), size, op.Constant(value_ints=[2, 3]))
    keep = op.CastLike(cropped, x)
    return keep, logits, energy


def _body(nodes: Sequence[NodeProto] = ()) -> FunctionProto:
    """Where all masks of a file have one patch size, the logits are computed from x itself, with patches as strides:
    half the time. Only the energy reads tokens then, and a runtime that does not want it need not make them."""
    body = EnergyMask.to_function_proto()
    patches = {next((a.i for a in node.attribute if a.name == "patch"), 1) for node in nodes}
    if len(patches) == 1:
        _read_directly(body, patches.pop())
    return body


def _read_directly(body: FunctionProto, patch: int) -> None:
    """Replaces the norm and the unary products of `body` by ones that fit `patch` alone, and reach from each patch's
    first position past the border, over zeros."""
    by_type = {node.op_type: node for node in body.node}  # of Pad, ReduceL2 and Conv there is one each
    x, (length, unary) = by_type["Pad"].input[0], (by_type[t].output[0] for t in ("ReduceL2", "Conv"))
    steps: dict[str, Any] = {"strides": [patch] * 2, "pads": [0, 0, patch - 1, patch - 1]}
    norm = [
        make_node("ReduceSumSquare", [x, "channel_axis"], ["squares"], keepdims=1),
        make_node(
            "AveragePool",
            ["squares"],
            ["mean_square"],
            kernel_shape=[patch] * 2,
            count_include_pad=1,
            **steps,
        ),
        make_node("Mul", ["mean_square", "positions"], ["square"]),
        make_node("Sqrt", ["square"], [length]),
    ]
    products = [
        make_node("Reshape", ["weight", "by_position"], ["patch_weight"]),
        make_node("Transpose", ["patch_weight"], ["kernel"], perm=[0, 3, 1, 2]),
        make_node("Conv", [x, "kernel"], [unary], **steps),
    ]
    constants = [
        make_node("Constant", [], ["channel_axis"], value_ints=[1]),
        make_node("Constant", [], ["positions"], value_float=float(patch**2)),
        make_node("Constant", [], ["by_position"], value_ints=[1, patch, patch, -1]),
    ]
    replaced = {"ReduceL2": norm, "Conv": products}
    if patch == 1:  # padding and regrouping would copy the features for nothing
        replaced |= {
            t: [make_node("Identity", by_type[t].input[:1], by_type[t].output)]
            for t in ("Pad", "SpaceToDepth")
        }
    nodes = [new for node in body.node for new in replaced.get(node.op_type, [node])]
    del body.node[:]
    body.node.extend([*constants, *nodes])
    body.doc_string = f"for patch = {patch}"


def _translate(x, weight, bias, threshold, temperature, lam, gamma, patch: int, soft: bool):
    """The exporter's view of torch.ops.foveate.energy_mask: one node, its body comes later."""
    node = Opset(DOMAIN, VERSION).EnergyMask
    return node(x, weight, bias, threshold, temperature, lam, gamma, patch=patch, soft=int(soft))


OP = DomainOp(
    schema=_schema(),
    function=_body,
    kind="energy_mask",
    prefix="mask",
    choices={3: "threshold", 4: "temperature", 5: "lambda", 6: "gamma"},
    torch_op="foveate::energy_mask",
    translate=_translate,
)
