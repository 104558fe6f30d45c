"""How much of a frame each engine computes: never far from the best choice in hindsight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from foveate.runtime.fallback import Fallback, FrameCosts
from hypothesis import given, settings
from hypothesis import strategies as st


class Machine:
    """What frames cost: `whole` and `dense` ms of each group of layers by either engine, `fixed` of each selective
    group beyond its work. The groups share the kernels' work evenly."""

    def __init__(self, whole: Sequence[float], dense: Sequence[float], fixed: float = 0.0):
        self.whole, self.dense, self.fixed, self.top = whole, dense, fixed, len(whole)

    def times(self, level: int, current: int, works: Sequence[float]) -> list[float]:
        """Ms of each group before the level, and of what lies behind."""
        selective = [self.fixed + work * whole for work, whole in zip(works, self.whole, strict=True)]
        return [*selective[:current], *self.whole[current:level], sum(self.dense[level:])]

    def best(self, frames: Sequence[Sequence[float]]) -> float:
        """The least that any choice takes, when the state is there at the first frame."""
        ending = [0.0 if level == self.top else float("inf") for level in range(self.top + 1)]
        for works in frames:
            ending = [
                min(
                    before + sum(self.times(level, min(level, last), works))
                    for last, before in enumerate(ending)
                )
                for level in range(self.top + 1)
            ]
        return min(ending)


def run(
    machine: Machine,
    frames: Sequence[Sequence[float]],
    left: Callable[[int], float] = lambda frame: 1.0,
    held_back: bool = False,
) -> tuple[list[int], float]:
    """The level of each frame, behind a first one that is whole, and the ms of all."""
    fallback = Fallback(FrameCosts([1 / machine.top] * machine.top), held_back)
    everything, levels, total = [1.0] * machine.top, [], 0.0
    fallback.took(machine.top, machine.times(machine.top, 0, everything), 0, everything, everything)
    for number, works in enumerate(frames):
        level = fallback.choose(works) if fallback.looks else 0
        current = min(level, fallback.level)
        done = [work * left(number) for work in works]
        ms = machine.times(level, current, done)
        fallback.took(level, ms, current, works, done)
        levels.append(level)
        total += sum(ms)
    return levels, total


def one(work: float, count: int) -> list[list[float]]:
    return [[work]] * count


SLOWER = Machine([13], [10], 0.5)


def test_small_changes_never_ask_for_the_dense_engine():
    assert set(run(SLOWER, one(0.1, 50))[0]) == {1}


def test_a_moving_camera_stays_dense():
    """But for trials where layers hold back: a whole frame and two selective ones, each time after twice as many dense
    frames."""
    assert set(run(SLOWER, one(1.0, 500))[0][10:]) == {0}
    levels, _ = run(SLOWER, one(1.0, 500), held_back=True)
    assert levels[10:].count(0) >= 475


def test_faster_kernels_keep_everything():
    assert set(run(Machine([8], [10], 0.5), one(1.0, 50))[0][10:]) == {1}


def test_stillness_brings_selective_frames_back():
    levels, _ = run(SLOWER, one(1.0, 20) + one(0.05, 20))
    assert levels[19] == 0 and levels[-1] == 1
    assert levels[20:].count(0) <= 4


def test_dense_frames_are_rarely_looked_at_and_at_no_fixed_cadence():
    fallback, looked = Fallback(FrameCosts()), []
    fallback.took(1, [13, 0], 0, [1.0], [1.0])
    for frame in range(60):
        if fallback.looks:
            looked.append(frame)
        level = fallback.choose([1.0]) if fallback.looks else 0
        current = min(level, fallback.level)
        fallback.took(level, SLOWER.times(level, current, [1.0]), current, [1.0], [1.0])
    gaps = [b - a for a, b in pairwise(looked)]
    assert set(gaps[10:]) == {3, 4}


def test_what_gathers_below_a_threshold_is_learned():
    """Dense frames differ little from each other, selective ones from what was propagated long before: they look cheap
    until they are tried. The dense engine is left for them a few times, not over and over."""
    changes = {}
    for gathers in (False, True):
        fallback, levels = Fallback(FrameCosts(), gathers=gathers), []
        fallback.took(1, [13.0, 0.0], 0, [1.0], [1.0])
        for _ in range(600):
            share = [0.5 if fallback.level == 0 else 0.9]
            level = fallback.choose(share) if fallback.looks else 0
            current = min(level, fallback.level)
            ms = SLOWER.times(level, current, share)
            fallback.took(level, ms, current, share, share)
            levels.append(level)
        changes[gathers] = sum(a != b for a, b in pairwise(levels))
    assert changes[True] < 10 < changes[False]
    assert set(levels[200:]) == {0}


def test_what_layers_stop_counts():
    """Nearly everything changes, and thresholds stop most of it: selective frames are cheap all the same."""
    levels, _ = run(SLOWER, one(0.9, 30), left=lambda frame: 0.2, held_back=True)
    assert set(levels) == {1}


def test_an_engine_that_was_taken_too_soon_is_left_again():
    """The first frames all move; from then on layers hold back what little is left of the motion."""
    levels, _ = run(SLOWER, one(0.9, 200), left=lambda frame: 1.0 if frame < 20 else 0.1, held_back=True)
    assert levels[18] == 0 and set(levels[100:]) == {1}


def test_deep_layers_that_change_everywhere_are_the_dense_engine_s():
    machine = Machine([6, 6, 6], [4, 4, 4], 0.2)
    levels, _ = run(machine, [[0.2, 0.9, 1.0]] * 60)
    assert set(levels[20:]) == {1}
    levels, _ = run(machine, [[0.2, 0.2, 1.0]] * 60 + [[0.1, 0.1, 0.1]] * 30)
    assert levels[59] == 2 and levels[-1] == 3


def test_a_tail_that_takes_longer_than_was_estimated_is_left_again():
    class Slow(Machine):
        def times(self, level: int, current: int, works: Sequence[float]) -> list[float]:
            found = super().times(level, current, works)
            return found if level != 1 else [*found[:-1], 3 * found[-1]]

    levels, _ = run(Slow([6, 6], [4, 4], 0.2), [[0.5, 1.0]] * 100)
    assert 0 < levels.count(1) <= 6 and 1 not in levels[-50:]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda groups: st.tuples(
            st.lists(
                st.tuples(
                    st.lists(st.sampled_from([0.0, 0.03, 0.3, 0.8, 1.0]), min_size=groups, max_size=groups),
                    st.integers(1, 30),
                ),
                min_size=1,
                max_size=12,
            ),
            st.lists(st.floats(0.6, 3.0), min_size=groups, max_size=groups),
        )
    ),
    st.floats(0.0, 0.3),
    st.booleans(),
)
def test_never_far_from_the_best_in_hindsight(clips_and_ratios, fixed, held_back):
    """At most 2n − 1 times as much, of n levels, but for first times and trials; 2 times on all that is drawn here."""
    clips, ratios = clips_and_ratios
    frames = [sorted(works) for works, count in clips for _ in range(count)]
    dense = 10 / len(ratios)
    machine = Machine([ratio * dense for ratio in ratios], [dense] * len(ratios), fixed * dense)
    _, ours = run(machine, frames, held_back=held_back)
    whole = sum(machine.whole)
    trials = 2 * (whole + 2 * (1 + fixed) * whole) * (2 + len(frames) / 256)
    learning = 4 * (whole + 10)
    assert ours <= 2 * machine.best(frames) + learning + trials
