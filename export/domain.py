"""The ONNX domain `ai.foveate`: what its ops are called, what they take, and how stock runtimes run them.

An op joins by a file in `export/ops/` that defines `OP = DomainOp(…)`; nothing else has to know of it.
Attributes hold structure; whatever calibration may change is an input and listed in `choices`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..runtime.errors import InternalError, ProgramError
from .extras import needs

with needs("export", "ONNX programs"):
    import onnx

DOMAIN = "ai.foveate"
VERSION = 1
STOCK_OPSET = 18  # of the function bodies and of exported programs


@dataclass(frozen=True)
class DomainOp:
    """One op of the domain.

    `function(nodes)` gives its body; it may suit those nodes alone, if they are all of a file. `choices` maps an
    input's index to the choice's name, `kind` is the manifest's `Decision.kind` ("": nothing is decided), and
    `translate` turns a call of `torch_op` into one node when torch exports. Choices are scalars or, with `lists`, have
    one axis.
    """

    schema: onnx.defs.OpSchema
    function: Callable[..., onnx.FunctionProto]
    kind: str
    prefix: str  # of the names given to unnamed decisions
    torch_op: str
    translate: Callable[..., Any]
    choices: dict[int, str] = field(default_factory=dict)
    lists: bool = False

    @property
    def name(self) -> str:
        return self.schema.name

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(i.name for i in self.schema.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.schema.outputs)


@cache
def domain_ops() -> dict[str, DomainOp]:
    """Every op of the domain by name; the first call registers the schemas with onnx."""
    from . import ops

    found: dict[str, DomainOp] = {}
    for file in pkgutil.iter_modules(ops.__path__):
        op = importlib.import_module(f"{ops.__name__}.{file.name}").OP
        if op.name in found:
            raise InternalError(f"{DOMAIN}::{op.name} is defined twice, again in export/ops/{file.name}.py")
        found[op.name] = op
    for op in found.values():
        if not onnx.defs.has(op.name, DOMAIN):
            onnx.defs.register_schema(op.schema)
    return found


def domain_op(name: str, node: str = "") -> DomainOp:
    """The op called `name`. Raises ProgramError that suggests the nearest name; `node` is named in it."""
    known = domain_ops()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ProgramError(
            f"unknown op in domain {DOMAIN}" + (f" at node {node!r}" if node else ""),
            got=name,
            expected=f"one of {', '.join(sorted(known))}",
            fix=f"did you mean {near[0]}?" if near else "update foveate, or export the program again",
        )
    return known[name]


def translation_table() -> dict[Any, Callable[..., Any]]:
    """For torch.onnx.export(dynamo=True, custom_translation_table=…). Needs torch."""
    import torch

    from . import deformable_sample, early_exit, energy_mask  # noqa: F401  (they define the torch ops)

    table = {}
    for op in domain_ops().values():
        namespace, name = op.torch_op.split("::")
        table[getattr(getattr(torch.ops, namespace), name).default] = op.translate
    return table
