"""Bytes: sums are those of whole numbers, whatever the shapes, instruction set, threads, mask; rounding is ONNX's."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.runtime.native.handles import PlanHandle, PoolHandle, StateHandle
from foveate.runtime.native.library import ISAS, native_isa
from foveate.runtime.native.plan import (
    Array,
    Combine,
    Conv,
    ConvInteger,
    Copy,
    Format,
    Part,
    Softmax,
    SpanPlan,
    Window,
    encode,
)
from hypothesis import given, settings
from hypothesis import strategies as st

RUNNABLE = [isa for isa in ISAS if native_isa(isa)]
ISA = pytest.mark.parametrize("isa", RUNNABLE)


def open_state(
    plan: SpanPlan, arrays: list[np.ndarray], size: tuple[int, int], isa: str, threads=1, **kind: bool
):
    words, params = encode(plan, lambda array: arrays[array.offset])
    handle = PlanHandle(words, params, inputs=len(plan.inputs), outputs=len(plan.outputs), isa=isa)
    return StateHandle(handle, [size] * len(plan.inputs), PoolHandle(threads), **kind)


def sums(image: np.ndarray, weights: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """The convolution of an image [channels, height, width] in whole numbers."""
    pads = [(0, 0), (window.low[0], window.high[0]), (window.low[1], window.high[1])]
    padded = np.pad(image.astype(np.int64), pads)
    (kh, kw), (dh, dw), (sh, sw) = window.kernel, window.dilation, window.stride
    reach = dh * (kh - 1) + 1, dw * (kw - 1) + 1
    patches = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))[:, ::sh, ::sw, ::dh, ::dw]
    split = patches.reshape(groups, -1, *patches.shape[1:])
    whole = weights.astype(np.int64).reshape(groups, -1, *weights.shape[1:])
    return np.einsum("goikl,giyxkl->goyx", whole, split).reshape(len(weights), *patches.shape[1:3])


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Window, int, int, int]:
    """The window, channels in and out, and groups."""
    sides = st.tuples(st.integers(1, 4), st.integers(1, 4))
    pads = st.tuples(st.integers(0, 3), st.integers(0, 3))
    twos = st.tuples(st.integers(1, 2), st.integers(1, 2))
    window = Window(draw(sides), draw(twos), draw(twos), draw(pads), draw(pads))
    groups = draw(st.sampled_from([1, 1, 2, 3, 20]))
    each, per = (1, 1) if groups == 20 else (draw(st.integers(1, 23)), draw(st.integers(1, 70)))
    return window, groups * each, groups * per, groups


@settings(max_examples=300, deadline=None)
@given(
    shape=convolutions(),
    isa=st.sampled_from(RUNNABLE),
    threads=st.integers(1, 4),
    zero=st.sampled_from([0, 128, 255, 77]),
    extreme=st.booleans(),
    share=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    seed=st.integers(0, 99),
)
def test_sums_are_exact(shape, isa, threads, zero, extreme, share, seed):
    """With scales of 1 the result is the sum itself, also where products are as large as they can be."""
    window, inputs, outputs, groups = shape
    rng, size = np.random.default_rng(seed), (11, 14)
    weights = rng.integers(-128, 128, (outputs, inputs // groups, *window.kernel)).astype(np.int8)
    image = rng.integers(-zero, 256 - zero, (inputs, *size))
    if extreme:
        weights = rng.choice(np.array([-128, 127], np.int8), weights.shape)
        image = rng.choice([-zero, 255 - zero], image.shape)
    mask = rng.random(size) < share
    arrays = [weights, np.ones(outputs, np.float32)]
    plan = SpanPlan(
        names=("x", "mask", "bytes", "y"),
        channels=(inputs, 1, inputs, outputs),
        inputs=(0, 1),
        masks=(1,),
        outputs=(3,),
        ops=(
            Copy((Part(0, 0, inputs, 0),), 2, (Combine("multiply_map", 1),)),
            ConvInteger(2, 3, window, groups, Array(0, weights.shape, "int8"), Array(1, (outputs,)), None),
        ),
        formats=(None, None, Format(1.0, zero), None),
    )
    state = open_state(plan, arrays, size, isa, threads)
    state.prepare([None, mask])
    state.run([image[None].astype(np.float32), mask[None, None].astype(np.float32)])
    np.testing.assert_array_equal(state.outputs[0][0], sums(image * mask, weights, window, groups))
    state.restore()
    assert not state.outputs[0].any()


def copies(*formats: Format | None) -> SpanPlan:
    """One channel, copied through tensors of these formats."""
    ops = tuple(Copy((Part(i, 0, 1, 0),), i + 1) for i in range(len(formats)))
    return SpanPlan(
        tuple("abcdef"[: len(ops) + 1]),
        (1,) * (len(ops) + 1),
        (0,),
        (),
        (len(ops),),
        ops,
        formats=(None, *formats),
    )


@ISA
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.037, 3.0])
@pytest.mark.parametrize("zero", [0, 1, 128, 255])
def test_rounding_is_to_even_and_saturates(isa: str, scale: float, zero: int):
    rng = np.random.default_rng(0)
    ties = (np.arange(-300, 300) + 0.5) * np.float32(scale)
    values = np.concatenate(
        [ties, rng.standard_normal(400) * 100 * scale, [1e30, -1e30, np.inf, -np.inf, 0.0]]
    )
    x = values.astype(np.float32).reshape(1, 1, 15, 67)
    state = open_state(copies(Format(scale, zero), None), [], x.shape[2:], isa)
    state.prepare([None])
    state.run([x])
    expected = np.clip(np.rint(x / np.float32(scale)), -zero, 255 - zero) * np.float32(scale)
    np.testing.assert_array_equal(state.outputs[0], expected)


@ISA
def test_what_needs_all_channels_has_them(isa: str):
    """A softmax behind a convolution whose output channels are several blocks."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 10, (100, 3, 1, 1)).astype(np.int8), np.full(100, 0.1, np.float32)]
    conv = ConvInteger(
        1, 2, Window((1, 1)), 1, Array(0, (100, 3, 1, 1), "int8"), Array(1, (100,)), None, (Softmax(),)
    )
    ops = (Copy((Part(0, 0, 3, 0),), 1), conv, Copy((Part(2, 0, 100, 0),), 3))
    formats = (None, Format(1.0, 128), Format(1 / 255, 0), None)
    state = open_state(
        SpanPlan(tuple("abcd"), (3, 3, 100, 100), (0,), (), (3,), ops, formats=formats),
        arrays,
        (9, 60),
        isa,
        2,
    )
    image = rng.integers(-5, 6, (3, 9, 60))
    state.prepare([None])
    state.run([image[None].astype(np.float32)])
    scores = np.exp(sums(image, arrays[0], Window((1, 1)), 1) * 0.1)
    np.testing.assert_allclose(state.outputs[0][0], scores / scores.sum(0), atol=0.51 / 255)


def test_bytes_take_a_quarter_of_the_memory():
    """Of a stream, whose tensors all stay."""
    taken = []
    for format in (Format(1.0, 128), None):
        state = open_state(copies(*[format] * 4, None), [], (64, 64), "best", stream=True)
        taken.append(state.nbytes - 3 * 64 * 64 * 4)  # the input, the last tensor, the output
    assert taken[0] == pytest.approx(taken[1] / 4, rel=0.01)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (copies(Format(1.0, 128)), "output of bytes"),
        (
            SpanPlan(("a", "b"), (1, 1), (0,), (), (1,), copies(None).ops, formats=(Format(1.0, 128), None)),
            "input of bytes",
        ),
        (copies(Format(0.0, 128), None), "scale beyond reason"),
        (copies(Format(float("nan"), 128), None), "scale beyond reason"),
        (copies(Format(1.0, 256), None), "zero 256"),
    ],
)
def test_what_bytes_cannot_be_is_refused(plan: SpanPlan, words: str):
    from foveate.runtime.errors import EngineError

    with pytest.raises(EngineError, match=words):
        open_state(plan, [], (4, 4), "best")


def test_floats_and_bytes_are_not_mixed_up():
    from foveate.runtime.errors import EngineError

    arrays = [np.zeros((1, 1, 1, 1), np.int8), np.zeros((1, 1, 1, 1), np.float32), np.ones(1, np.float32)]
    window = Window((1, 1))
    of_bytes = ConvInteger(0, 1, window, 1, Array(0, (1, 1, 1, 1), "int8"), Array(2, (1,)), None)
    with pytest.raises(EngineError, match="convolves floats as bytes"):
        open_state(SpanPlan(("a", "b"), (1, 1), (0,), (), (1,), (of_bytes,)), arrays, (4, 4), "best")
    of_floats = Conv(1, 2, window, 1, Array(1, (1, 1, 1, 1)), None)
    first = Copy((Part(0, 0, 1, 0),), 1)
    plan = SpanPlan(
        ("a", "b", "c"), (1,) * 3, (0,), (), (2,), (first, of_floats), formats=(None, Format(1.0, 0), None)
    )
    with pytest.raises(EngineError, match="convolves bytes as floats"):
        open_state(plan, arrays, (4, 4), "best")
