"""A span plan: the ops of a region as the native kernels run them, as plain data.

It is written by `pipeline.spans`, stands in a bundle as JSON, and is encoded into numbers for the library, which checks
everything again (plan.cpp). Tensors are named by their index in `channels`. Weights lie in the bundle's file of
weights, in the layout of ONNX.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..decode import decode
from ..manifest import Pair

SCHEMA_VERSION = 2
_MAGIC = 0x666F76656174  # of plan.cpp

# fmt: off
ACTIVATIONS = (
    "relu", "leaky", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "tanh", "elu", "softplus", "erf",
)
# fmt: on
POOLS = ("max", "average", "average_with_padding")
RESIZES = ("nearest", "linear")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric")
OPS = ("conv", "pool", "resize", "copy", "conv_transpose", "conv_integer")
STEPS = ("add", "subtract", "multiply", "multiply_map", "affine", "prelu", "activate", "softmax", "round")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Array:
    """Numbers in the file of weights: `offset` in bytes. dtype: "float32" or "int8"."""

    offset: int
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "int8"):
            raise ValueError(f"an array of {self.dtype}")


@dataclass(frozen=True)
class Format:
    """How a tensor of bytes stands for numbers: byte b for scale · (b − zero), 0 ≤ zero ≤ 255."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Window:
    """Output o reads inputs o·stride − low + k·dilation for 0 ≤ k < kernel, along height and width. Pads below zero,
    which leave inputs out, are for convolutions alone."""

    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    low: Pair = (0, 0)
    high: Pair = (0, 0)


@dataclass(frozen=True)
class Combine:
    """The output is combined with a tensor of its size; `multiply_map` with one of a single channel."""

    how: str  # "add", "subtract", "multiply", "multiply_map"
    tensor: int
    kind: str = "combine"


@dataclass(frozen=True)
class Affine:
    """· scale + shift for each channel."""

    scale: Array
    shift: Array | None
    kind: str = "affine"


@dataclass(frozen=True)
class Prelu:
    slope: Array
    kind: str = "prelu"


@dataclass(frozen=True)
class Activate:
    """One of ACTIVATIONS; `a` and `b` are its numbers, where it has any."""

    function: str
    a: float = 0.0
    b: float = 0.0
    kind: str = "activate"


@dataclass(frozen=True)
class Softmax:
    """Over the channels of each position."""

    kind: str = "softmax"


@dataclass(frozen=True)
class Round:
    """To the nearest number that bytes of a format stand for."""

    format: Format
    kind: str = "round"


Step = Combine | Affine | Prelu | Activate | Softmax | Round  # done to an op's output, in order


@dataclass(frozen=True)
class Conv:
    source: int
    target: int
    window: Window
    groups: int
    weights: Array  # [out, in ÷ groups, height, width]
    bias: Array | None
    steps: tuple[Step, ...] = ()
    kind: str = "conv"


@dataclass(frozen=True)
class ConvInteger:
    """A convolution of bytes, summed up exactly: the sum of (byte − zero) · weight, times scale, plus bias."""

    source: int
    target: int
    window: Window
    groups: int
    weights: Array  # int8 [out, in ÷ groups, height, width]
    scale: Array  # [out]: the source's times that of each channel's weights
    bias: Array | None
    steps: tuple[Step, ...] = ()
    kind: str = "conv_integer"


@dataclass(frozen=True)
class ConvTranspose:
    """Input i adds to outputs i·stride − low + k·dilation; `more` outputs stand at the end."""

    source: int
    target: int
    window: Window
    more: Pair
    groups: int
    weights: Array  # [in, out ÷ groups, height, width]
    bias: Array | None
    steps: tuple[Step, ...] = ()
    kind: str = "conv_transpose"


@dataclass(frozen=True)
class Pool:
    source: int
    target: int
    window: Window
    how: str  # of POOLS
    ceil: bool = False  # sizes are rounded up
    steps: tuple[Step, ...] = ()
    kind: str = "pool"


@dataclass(frozen=True)
class Resize:
    source: int
    target: int
    how: str  # of RESIZES
    coordinates: str
    rounding: str
    scales: tuple[float, float]
    steps: tuple[Step, ...] = ()
    kind: str = "resize"


@dataclass(frozen=True)
class Part:
    """`count` channels of a tensor, from its channel `first` on, become those of the target from `to` on."""

    source: int
    first: int
    count: int
    to: int


@dataclass(frozen=True)
class Copy:
    parts: tuple[Part, ...]
    target: int
    steps: tuple[Step, ...] = ()
    kind: str = "copy"


Op = Conv | ConvInteger | ConvTranspose | Pool | Resize | Copy


@dataclass(frozen=True)
class SpanPlan:
    """`masks`: which of the inputs are mask tensors, 0 where inactive. Ops stand after what they read. The plan holds
    where height and width of each input are multiples of its `multiples` (empty: always)."""

    names: tuple[str, ...]
    channels: tuple[int, ...]
    inputs: tuple[int, ...]
    masks: tuple[int, ...]
    outputs: tuple[int, ...]
    ops: tuple[Op, ...]
    multiples: tuple[Pair, ...] = ()
    formats: tuple[Format | None, ...] = ()  # by tensor, of bytes; empty: all are float32
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> SpanPlan:
        """Raises ValueError, KeyError or TypeError on anything that is not a plan of this schema version."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError("a span plan of another schema version")
        return decode(SpanPlan, data)


def encode(plan: SpanPlan, read: Callable[[Array], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The words (int64) and parameters (float32) that fv_plan_open takes. `read` gives the values of an array."""
    encoder = _Encoder(read)
    encoder.plan(plan)
    params = np.concatenate(encoder.params) if encoder.params else np.empty(0, np.float32)
    return np.array(encoder.words, np.int64), params


class _Encoder:
    def __init__(self, read: Callable[[Array], np.ndarray]):
        self.words: list[int] = []
        self.params: list[np.ndarray] = []
        self._read, self._length = read, 0

    def plan(self, plan: SpanPlan) -> None:
        self.words += [_MAGIC, len(plan.channels)]
        for channels, format in zip(plan.channels, plan.formats or [None] * len(plan.channels), strict=True):
            self.words += [channels, int(format is not None)]
            if format is not None:
                self._format(format)
        self.words.append(len(plan.inputs))
        for tensor in plan.inputs:
            self.words += [tensor, int(tensor in plan.masks)]
        self.words += [len(plan.outputs), *plan.outputs, len(plan.ops)]
        for op in plan.ops:
            self._op(op)

    def _op(self, op: Op) -> None:
        self.words += [OPS.index(op.kind), op.target]
        match op:
            case Conv():
                self.words.append(op.source)
                self._window(op.window)
                self.words.append(op.groups)
                self._array(op.weights)
                self._array(op.bias)
            case ConvInteger():
                self.words.append(op.source)
                self._window(op.window)
                self.words.append(op.groups)
                self._array(op.weights)
                self._array(op.scale)
                self._array(op.bias)
            case ConvTranspose():
                self.words.append(op.source)
                self._window(op.window)
                self.words += [*op.more, op.groups]
                self._array(op.weights)
                self._array(op.bias)
            case Pool():
                self.words += [op.source, POOLS.index(op.how)]
                self._window(op.window)
                self.words.append(int(op.ceil))
            case Resize():
                rounding = ROUNDINGS.index(op.rounding)
                self.words += [op.source, RESIZES.index(op.how), COORDINATES.index(op.coordinates), rounding]
                self._numbers(op.scales)
            case Copy():
                self.words.append(len(op.parts))
                for part in op.parts:
                    self.words += [part.source, part.first, part.count, part.to]
        self.words.append(len(op.steps))
        for step in op.steps:
            self._step(step)

    def _window(self, window: Window) -> None:
        self.words += [*window.kernel, *window.stride, *window.dilation, *window.low, *window.high]

    def _step(self, step: Step) -> None:
        self.words.append(STEPS.index(step.how if isinstance(step, Combine) else step.kind))
        match step:
            case Combine():
                self.words.append(step.tensor)
            case Affine():
                self._array(step.scale)
                self._array(step.shift)
            case Prelu():
                self._array(step.slope)
            case Activate():
                self.words.append(ACTIVATIONS.index(step.function))
                self._numbers((step.a, step.b))
            case Round():
                self._format(step.format)

    def _format(self, format: Format) -> None:
        self._numbers((format.scale,))
        self.words.append(format.zero)

    def _array(self, array: Array | None) -> None:
        if array is None:
            self.words.append(-1)
        else:
            values = self._read(array).ravel()
            if array.dtype == "int8":  # four in a parameter, with zeros behind
                values = np.pad(values, (0, -values.size % 4)).view(np.float32)
            self._numbers(values)

    def _numbers(self, values) -> None:
        numbers = np.asarray(values, np.float32)
        self.words.append(self._length)
        self.params.append(numbers)
        self._length += len(numbers)
