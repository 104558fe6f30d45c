"""The registry of lowering rules, and what a rule builds with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...runtime.native.plan import Array, Conv, Copy, Format, Op, Part, Step, Window
from ..analyze.registry import NodeView, rules_in
from ..graph import op_key

Place = Callable[[np.ndarray], Array]  # puts numbers (float32 or int8) into the file of weights


class Unsupported(Exception):
    """The native kernels cannot run a node; the text completes "node (op) …"."""


@dataclass
class Builder:
    """The ops so far. Tensors are numbered as they appear; `formats` are those of bytes, None of float32."""

    place: Place
    names: list[str] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    formats: list[Format | None] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    def tensor(self, name: str, channels: int, format: Format | None = None) -> int:
        """A new tensor."""
        self.names.append(name)
        self.channels.append(channels)
        self.formats.append(format)
        return len(self.names) - 1

    def find(self, name: str) -> int:
        """The tensor of that name."""
        if name not in self.names:
            raise Unsupported(f"reads {name}, which is no map of float32")
        return self.names.index(name)

    def array(self, values: np.ndarray) -> Array:
        """Of int8 as they are, of anything else as float32."""
        return self.place(np.ascontiguousarray(values, np.int8 if values.dtype == np.int8 else np.float32))


@dataclass
class LoweredNode:
    """A node as a lowering rule sees it."""

    view: NodeView
    builder: Builder

    def source(self, i: int = 0) -> int:
        """The tensor that is input i: a map of one image, [1, channels, height, width]."""
        self._shape_of_map(self.view.name(i))
        return self.builder.find(self.view.name(i))

    def target(self, output: int = 0, format: Format | None = None) -> int:
        """A new tensor for an output."""
        name = self.view.node.output[output]
        return self.builder.tensor(name, self._shape_of_map(name)[1], format)

    def maker(self, i: int = 0) -> LoweredNode | None:
        """The node that makes input i, if an op of this plan does what it does."""
        found, source = self.producer(i), self.source(i)
        return found if any(op.target == source for op in self.builder.ops) else None

    def constant(self, i: int) -> np.ndarray:
        """The value of a constant operand."""
        if self.view.name(i) in self.view.graph.choices:
            raise Unsupported(f"takes the choice {self.view.name(i)}")
        value = self.view.value(i)
        made_by = self.producer(i)
        if value is None and made_by is not None and made_by.view.node.op_type == "DequantizeLinear":
            value = dequantized(made_by)
        if value is None:
            raise Unsupported(f"has an operand {self.view.name(i)} whose value is not known")
        return value

    def producer(self, i: int) -> LoweredNode | None:
        """The node that makes input i."""
        view, name = self.view, self.view.name(i)
        found = view.graph.producer.get(name)
        if found is None:
            return None
        return LoweredNode(NodeView(found, view.graph, view.probes, view.map_axes), self.builder)

    def per_channel(self, i: int, channels: int) -> np.ndarray:
        """A constant operand spread over channels: float32 [channels]."""
        value = np.asarray(self.constant(i), np.float32)
        shape = (1,) * (4 - value.ndim) + value.shape
        if len(shape) != 4 or shape[-3] != value.size or value.size not in (1, channels):
            raise Unsupported(f"has a constant {self.view.name(i)} of shape {list(value.shape)}")
        return np.broadcast_to(value.ravel(), channels)

    def spread(self, source: int, channels: int) -> int:
        """The source, or what it is with that many channels where it has a single one."""
        builder = self.builder
        if builder.channels[source] == channels:
            return source
        if builder.channels[source] != 1:
            raise Unsupported(f"combines maps of {builder.channels[source]} and {channels} channels")
        target = builder.tensor(f"{builder.names[source]} × {channels}", channels)
        ones = builder.array(np.ones((channels, 1, 1, 1)))
        builder.ops.append(Conv(source, target, Window((1, 1)), 1, ones, None))
        return target

    def apply(self, source: int, *steps: Step, format: Format | None = None) -> None:
        """The output is the source with these steps done to it."""
        count = self.builder.channels[source]
        self.builder.ops.append(Copy((Part(source, 0, count, 0),), self.target(format=format), steps))

    def _shape_of_map(self, name: str) -> tuple[int, ...]:
        shape = self.view.probes.sample.shapes[name]
        if self.view.map_axes.get(name) != (2, 3) or len(shape) != 4:
            raise Unsupported(f"holds {name} in another layout than [batch, channels, height, width]")
        return shape


def dequantized(node: LoweredNode) -> np.ndarray:
    """What a DequantizeLinear of constants makes, float32."""
    values, scale = node.constant(0), node.constant(1)
    zero = node.constant(2) if node.view.name(2) else np.zeros((), values.dtype)
    spread = [1] * values.ndim
    if scale.size > 1:
        spread[node.view.axis(values.ndim, default=1)] = scale.size
    whole = values.astype(np.int32) - zero.astype(np.int32).reshape(
        spread if zero.size > 1 else [1] * values.ndim
    )
    return whole.astype(np.float32) * scale.astype(np.float32).reshape(spread)


Rule = Callable[[LoweredNode], None]
_RULES: dict[tuple[str, str], Rule] = {}


rule = rules_in(_RULES, "lowering rules")


def lower_node(node: LoweredNode) -> None:
    """Adds the node's ops. Raises Unsupported."""
    found = _RULES.get(op_key(node.view.node))
    if found is None:
        raise Unsupported("has no native kernel")
    found(node)
