"""Which engine computes a frame: never far from the best choice in hindsight."""

from __future__ import annotations

from itertools import pairwise

from foveate.runtime.fallback import DENSE, SPANS, WHOLE, Fallback, FrameCosts
from hypothesis import given, settings
from hypothesis import strategies as st


def run(
    works: list[float], whole: float, dense: float, fixed: float, left: float = 1.0, held_back: bool = False
) -> list[str]:
    fallback, kinds = Fallback(FrameCosts(), held_back), [WHOLE]
    fallback.took(WHOLE, whole, 1.0, 1.0)
    for work in works:
        kind = fallback.choose(work) if fallback.looks else DENSE
        kinds.append(kind)
        fallback.took(kind, cost(kind, work * left, whole, dense, fixed), work, work * left)
    return kinds


def cost(kind: str, work: float, whole: float, dense: float, fixed: float) -> float:
    return {SPANS: fixed + work * whole, DENSE: dense, WHOLE: whole}[kind]


def test_small_changes_never_ask_for_the_dense_engine():
    assert set(run([0.1] * 50, 10, 10, 0.5)[1:]) == {SPANS}


def test_a_moving_camera_stays_dense():
    """But for trials where layers hold back: a whole frame and two selective ones, each time after twice as many dense
    frames."""
    assert set(run([1.0] * 500, whole=13, dense=10, fixed=0.5)[10:]) == {DENSE}
    kinds = run([1.0] * 500, whole=13, dense=10, fixed=0.5, held_back=True)
    assert kinds[10:].count(DENSE) >= 475
    assert kinds.count(WHOLE) <= 7


def test_faster_kernels_keep_everything():
    kinds = run([1.0] * 50, whole=8, dense=10, fixed=0.5)
    assert set(kinds[10:]) == {SPANS}


def test_stillness_brings_selective_frames_back():
    kinds = run([1.0] * 20 + [0.05] * 20, whole=13, dense=10, fixed=0.5)
    assert kinds[20] == DENSE and kinds[-1] == SPANS
    assert kinds[21:].count(DENSE) <= 4


def test_dense_frames_are_rarely_looked_at_and_at_no_fixed_cadence():
    fallback, looked = Fallback(FrameCosts()), []
    fallback.took(WHOLE, 13, 1.0, 1.0)
    for frame in range(60):
        if fallback.looks:
            looked.append(frame)
            kind = fallback.choose(1.0)
        else:
            kind = DENSE
        fallback.took(kind, cost(kind, 1.0, 13, 10, 0.5), 1.0, 1.0)
    gaps = [b - a for a, b in pairwise(looked)]
    assert set(gaps[10:]) == {3, 4}


def test_what_layers_stop_counts():
    """Nearly everything changes, and thresholds stop most of it: selective frames are cheap all the same."""
    assert set(run([0.9] * 30, whole=13, dense=10, fixed=0.5, left=0.2, held_back=True)[1:]) == {SPANS}


def test_an_engine_that_was_taken_too_soon_is_left_again():
    """The first frames all move; from then on layers hold back what little is left of the motion."""
    fallback, kinds = Fallback(FrameCosts(), held_back=True), []
    for frame in range(200):
        left = 1.0 if frame < 20 else 0.1
        kind = WHOLE if not frame else fallback.choose(0.9) if fallback.looks else DENSE
        fallback.took(kind, cost(kind, 0.9 * left, 13, 10, 0.5), 0.9, 0.9 * left)
        kinds.append(kind)
    assert kinds[19] == DENSE and set(kinds[100:]) == {SPANS}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.03, 0.3, 0.8, 1.0]), st.integers(1, 30)), min_size=1, max_size=12
    ),
    st.floats(0.6, 3.0),
    st.floats(0.0, 0.3),
    st.booleans(),
)
def test_never_twice_the_best_in_hindsight(clips, ratio, fixed, held_back):
    works = [work for work, count in clips for _ in range(count)]
    whole, dense = 10 * ratio, 10.0
    kinds = run(works, whole, dense, fixed * dense, held_back=held_back)
    ours = sum(cost(k, w, whole, dense, fixed * dense) for k, w in zip(kinds[1:], works, strict=True))
    best = {SPANS: 0.0, DENSE: whole}  # the least that a sequence ending in each costs
    for work in works:
        spans = min(best[SPANS] + cost(SPANS, work, whole, dense, fixed * dense), best[DENSE] + whole)
        best = {SPANS: spans, DENSE: min(best.values()) + dense}
    trials = 2 * (whole + 2 * (1 + fixed) * whole) * (2 + len(works) / 256)
    learning = 4 * (whole + dense)  # first times of either engine
    assert ours <= 2 * min(best.values()) + learning + trials
