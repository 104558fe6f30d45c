"""The registry of op families: what a rule is told of a node, what it answers, and how it is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx

from ...runtime.errors import InternalError
from ...runtime.manifest import Pair
from ..graph import CONST, DATA, Graph, attributes, op_key
from ..probe import Probes
from .field import Fields


@dataclass(frozen=True)
class Local:
    """The node reads a bounded neighbourhood: `fields` of each data input by its index, `axes` of its outputs.

    `spare` says how long its output is, per axis: an input of n positions gives ⌊(n·a + spare) / c⌋, where the field's
    stride is c/a. For a convolution that is its pads less its kernel plus its stride."""

    fields: dict[int, Fields]
    axes: Pair = (2, 3)
    spare: Pair = (0, 0)


@dataclass(frozen=True)
class Barrier:
    """The node cannot run on a window; `reason` completes "node (op): …"."""

    reason: str


@dataclass
class NodeView:
    """A node as a rule sees it. Inputs are counted as in the ONNX specification of the op."""

    node: onnx.NodeProto
    graph: Graph
    probes: Probes
    map_axes: dict[str, Pair]  # of tensors that hold a map
    attrs: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.attrs = attributes(self.node)

    def name(self, i: int) -> str:
        """The name of input i, empty if it is left out."""
        return self.node.input[i] if i < len(self.node.input) else ""

    @property
    def data(self) -> list[int]:
        """Indices of the inputs that depend on the image."""
        return [i for i, n in enumerate(self.node.input) if n and self.graph.depends.get(n, DATA) == DATA]

    def fixed(self, i: int) -> bool:
        """True if input i is left out or is the same for every image and resolution."""
        return not self.name(i) or self.graph.depends.get(self.name(i)) == CONST

    def axes(self, i: int = 0) -> Pair | None:
        """The axes of input i that hold height and width."""
        return self.map_axes.get(self.name(i))

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """The shape of input i at the sample's resolution."""
        return self.probes.sample.shapes[self.name(i)]

    def out_shape(self) -> tuple[int, ...]:
        return self.probes.sample.shapes[self.node.output[0]]

    def value(self, i: int) -> np.ndarray | None:
        """The value of input i, if it is a constant."""
        if not self.name(i):
            return None
        found = self.graph.initializer(self.name(i))
        return self.probes.constant(self.name(i)) if found is None else found

    @property
    def opset(self) -> int:
        """The version of the stock operators that the program is written in."""
        return next((o.version for o in self.graph.model.opset_import if o.domain in ("", "ai.onnx")), 1)

    def axis(self, rank: int, name: str = "axis", default: int = -1) -> int:
        return self.attrs.get(name, default) % rank


Rule = Callable[[NodeView], "Local | Barrier"]
F = TypeVar("F", bound=Callable[..., Any])
_RULES: dict[tuple[str, str], Rule] = {}


def rules_in(table: dict[tuple[str, str], F], what: str) -> Callable[..., Callable[[F], F]]:
    """A decorator factory: `@decorator("Add", "Sub")` enters a function in `table` under these op types, once."""

    def for_ops(*ops: str, domain: str = "") -> Callable[[F], F]:
        def add(function: F) -> F:
            for op in ops:
                if (domain, op) in table:
                    raise InternalError(f"two {what} for op {(domain, op)}")
                table[domain, op] = function
            return function

        return add

    return for_ops


rule = rules_in(_RULES, "rules")


def read_node(view: NodeView) -> Local | Barrier:
    """What the node's rule says; a Barrier for an op without a rule or a node that its rule cannot read."""
    key = op_key(view.node)
    found = _RULES.get(key)
    if found is None:
        return Barrier(f"unknown op{f' of domain {key[0]}' if key[0] else ''}")
    if not any(view.axes(i) for i in view.data):
        return Barrier("reads no map")
    if any(not view.fixed(i) for i in range(len(view.node.input)) if i not in view.data):
        return Barrier("an operand depends on the resolution")
    try:
        return found(view)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        return Barrier(f"cannot be read ({type(error).__name__}: {error})")


def known_ops() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(_RULES))
