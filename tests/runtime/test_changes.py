"""Where an input changed: the native functions say what numpy says, and votes, hysteresis and patience do theirs."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.runtime import StreamPolicy, changes
from foveate.runtime.changes import Changes, compare
from foveate.runtime.native.handles import PoolHandle
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 90)),
    threshold=st.sampled_from([0.0, 0.3, 2.0]),
    block=st.integers(1, 9),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_native_and_numpy_agree(shape, threshold, block, threads, seed):
    rng = np.random.default_rng(seed)
    last = rng.standard_normal((1, *shape)).astype(np.float32)
    now = np.where(rng.random(last.shape) < 0.3, rng.standard_normal(last.shape), last).astype(np.float32)
    policy = StreamPolicy(threshold=threshold, block=block, vote=min(2, block**2))
    found = []
    for native in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not native:
                patch.setattr(changes, "library", lambda: None)
            pool = PoolHandle(threads) if native else None
            moved, counts, finite = compare(now, last, threshold, block, pool)
            assert finite
            followed = Changes(policy, last, pool)
            seen = followed.look(now)
            followed.accept(now, seen)
            found.append((moved, counts, seen.dirty, followed.last))
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found[0][0], (np.abs(now - last) > threshold)[0].any(axis=0))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_wherever_it_is(monkeypatch: pytest.MonkeyPatch, native: bool, bad: float):
    if not native:
        monkeypatch.setattr(changes, "library", lambda: None)
    for at in [(0, 0, 0), (1, 16, 36), (2, 33, 5)]:
        image = np.zeros((1, 3, 34, 37), np.float32)
        followed = Changes(StreamPolicy(), image)
        assert followed.look(image).finite and followed.is_finite(image)
        image[(0, *at)] = bad
        assert not followed.look(image).finite and not followed.is_finite(image)


def images(*pixels: tuple[int, int]) -> np.ndarray:
    image = np.zeros((1, 1, 8, 10), np.float32)
    for pixel in pixels:
        image[(0, 0, *pixel)] = 1
    return image


def step(followed: Changes, image: np.ndarray) -> set[tuple[int, int]]:
    """Blocks of four that are computed."""
    seen = followed.look(image)
    followed.accept(image, seen)
    return {(int(y) // 4, int(x) // 4) for y, x in np.argwhere(seen.dirty)}


def test_a_block_is_computed_whole_or_not():
    followed = Changes(StreamPolicy(block=4, vote=2), images())
    seen = followed.look(images((0, 0), (3, 3), (5, 5)))
    assert seen.dirty[:4, :4].all() and seen.dirty.sum() == 16
    assert seen.moved == 3 / 80


def test_blocks_at_the_border_vote_with_what_they_have():
    followed = Changes(StreamPolicy(block=4, vote=3), images())
    assert step(followed, images((0, 8), (1, 9), (4, 4), (4, 5))) == {(0, 2)}  # 8 of 16 positions: two votes


def test_hysteresis_keeps_blocks():
    followed = Changes(StreamPolicy(block=4, vote=3, keep=1), images())
    assert step(followed, images((0, 0))) == set()
    assert step(followed, images((0, 0), (0, 1), (0, 2))) == {(0, 0)}
    assert step(followed, images((0, 0), (0, 1))) == {(0, 0)}
    assert step(followed, images((0, 0), (0, 1))) == set()
    assert step(followed, images((0, 0))) == set()


def test_patience_ends():
    followed = Changes(StreamPolicy(block=4, vote=3, patience=3), images())
    assert [step(followed, images((5, 5))) for _ in range(5)] == [set(), set(), {(1, 1)}, set(), set()]


def test_drift_is_what_is_not_computed():
    followed = Changes(StreamPolicy(threshold=0.5, drift=0.1), images())
    moved = images((0, 0)) + np.float32(0.25)
    assert followed.look(moved).drift == pytest.approx(0.25)
    assert Changes(StreamPolicy(threshold=0.5), images()).look(moved).drift == 0
