"""Whatever a plan says, the library runs it or says what is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.runtime.errors import EngineError
from foveate.runtime.native.handles import PlanHandle, PoolHandle, StateHandle
from foveate.runtime.native.plan import (
    Activate,
    Affine,
    Array,
    Combine,
    Conv,
    ConvInteger,
    Copy,
    Format,
    Part,
    Pool,
    Prelu,
    Resize,
    Round,
    Softmax,
    SpanPlan,
    Window,
    encode,
)
from hypothesis import given, settings
from hypothesis import strategies as st

LIMIT = 1 << 24  # bytes
THREE = Window((3, 3), low=(1, 1), high=(1, 1))
HALF = Window((2, 2), (2, 2))
ARRAYS: list[np.ndarray] = [
    np.random.default_rng(i).standard_normal(n).astype(np.float32) for i, n in enumerate((216, 6, 36))
]
ARRAYS.append(np.random.default_rng(3).integers(-127, 128, 12 * 6 * 9).astype(np.int8))
ARRAYS.append(np.ones(12, np.float32))
BYTES, SCALES = Array(3, (12, 6, 3, 3), "int8"), Array(4, (12,))
WEIGHTS, CHANNELS, DEPTHWISE = Array(0, (6, 4, 3, 3)), Array(1, (6,)), Array(2, (6, 1, 3, 2))
PLAN = SpanPlan(
    names=tuple("xmabcdefgh"),
    channels=(4, 1, 6, 6, 6, 6, 12, 12, 12, 12),
    inputs=(0, 1),
    masks=(1,),
    outputs=(6, 7, 9),
    formats=(*[None] * 5, Format(0.05, 128), None, None, Format(0.1, 3), None),
    ops=(
        Conv(0, 2, THREE, 1, WEIGHTS, CHANNELS, (Activate("relu"), Combine("multiply_map", 1))),
        Conv(2, 3, Window((3, 2), low=(1, 0), high=(1, 1)), 6, DEPTHWISE, None, (Prelu(CHANNELS),)),
        Pool(3, 4, HALF, "max", False, (Affine(CHANNELS, None),)),
        Resize(
            4,
            5,
            "linear",
            "half_pixel",
            "floor",
            (2.0, 2.0),
            (Combine("add", 2), Activate("silu"), Softmax()),
        ),
        Copy((Part(5, 0, 6, 6), Part(2, 0, 6, 0)), 6),
        Pool(6, 7, HALF, "average", True, (Activate("clip", -1, 1),)),
        ConvInteger(5, 8, THREE, 1, BYTES, SCALES, SCALES, (Round(Format(0.2, 128)), Combine("add", 6))),
        Copy((Part(8, 0, 12, 0),), 9, (Combine("multiply", 8),)),
    ),
)


def encoded() -> tuple[np.ndarray, np.ndarray]:
    return encode(PLAN, lambda array: ARRAYS[array.offset].reshape(array.shape))


def run(words: np.ndarray, params: np.ndarray) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    state = StateHandle(
        PlanHandle(words, params, inputs=2, outputs=3), [(8, 12), (8, 12)], PoolHandle(1), LIMIT
    )
    mask = rng.random((8, 12)) < 0.3
    state.prepare([None, mask])
    state.run([rng.standard_normal((1, 4, 8, 12)).astype(np.float32), mask[None, None].astype(np.float32)])
    return state.outputs


def test_the_plan_itself_runs():
    assert [a.shape for a in run(*encoded())] == [(1, 12, 8, 12), (1, 12, 4, 6), (1, 12, 8, 12)]


def declared_inputs(words: np.ndarray) -> int:
    """How many inputs the words name; 0 where they end before."""
    place = 2
    for _ in range(min(int(words[1]), len(words))):
        place += 4 if place + 1 < len(words) and words[place + 1] == 1 else 2  # bytes have a scale and a zero
    return int(words[place]) if place < len(words) else 0


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 200), st.integers(-2, 12) | st.integers(-(2**62), 2**62)),
        min_size=1,
        max_size=4,
    ),
    cut=st.integers(0, 3),
)
def test_a_damaged_plan_is_refused_or_runs(changes, cut):
    words, params = encoded()
    for place, value in changes:
        words[place % len(words)] = value
    words = words[: len(words) - cut]
    if declared_inputs(words) != 2:  # the caller's arrays are as many as the plan that it wrote has inputs
        return
    try:
        run(words, params)
    except EngineError as error:
        assert error.got


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w[:0], "ends before"),
        (lambda w: w[:-1], "ends before"),
        (lambda w: np.append(w, 0), "left over"),
        (lambda w: np.concatenate([[1], w[1:]]), "is none"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    given, params = encoded()
    with pytest.raises(EngineError, match=words):
        PlanHandle(change(given).astype(np.int64), params, inputs=2, outputs=3)


def test_parameters_that_are_missing_are_noticed():
    words, params = encoded()
    with pytest.raises(EngineError, match="parameters"):
        PlanHandle(words, params[:-4].copy(), inputs=2, outputs=3)


def test_a_state_beyond_its_limit_is_refused():
    plan = PlanHandle(*encoded(), inputs=2, outputs=3)
    with pytest.raises(EngineError, match="1000 are allowed"):
        StateHandle(plan, [(8, 12), (8, 12)], PoolHandle(1), 1000)


def test_sizes_that_do_not_agree_are_refused():
    plan = PlanHandle(*encoded(), inputs=2, outputs=3)
    with pytest.raises(EngineError, match="combines tensors"):
        StateHandle(plan, [(8, 12), (9, 12)], PoolHandle(1))
    with pytest.raises(EngineError, match="combines tensors of 6×12 and 7×12"):  # halved, doubled
        StateHandle(plan, [(7, 12), (7, 12)], PoolHandle(1))


def test_a_stream_is_computed_in_order_as_far_as_one_likes():
    """And its ops are refused in any other, as are tensors that are none of floats."""
    plan = PlanHandle(*encoded(), inputs=2, outputs=3)
    state = StateHandle(plan, [(8, 12), (8, 12)], PoolHandle(1), LIMIT, stream=True)
    frame = [np.ones((1, 4, 8, 12), np.float32), np.ones((1, 1, 8, 12), np.float32)]
    with pytest.raises(EngineError, match="8 ops"):
        state.advance(frame, 0, 8, whole=True)  # nothing was followed yet
    assert state.follow([None, None]).shape == (plan.ops,) == (8,)
    state.advance(frame, 0, 3, whole=False)
    for first, last in ((0, 8), (2, 8), (4, 8), (3, 2), (3, 9), (-1, 3)):
        with pytest.raises(EngineError, match="8 ops"):
            state.advance(frame, first, last, whole=True)
    state.advance(frame, 3, 8, whole=True)
    np.testing.assert_array_equal(state.tensor(6), state.outputs[0])
    for tensor in (-1, 5, 10):  # the second is of bytes
        with pytest.raises(EngineError, match="no map of floats"):
            state.tensor(tensor)
