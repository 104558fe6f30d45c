"""Which waiting images run next."""

from __future__ import annotations

import numpy as np
from foveate.runtime.inputs import Batch
from foveate.runtime.lanes import Job, Lanes
from foveate.runtime.request import Request
from hypothesis import given
from hypothesis import strategies as st

CHOICES: dict[str, np.ndarray] = {}


def job(size: int = 8, part: int = 0, due: float = 0.0, choices: dict[str, np.ndarray] = CHOICES) -> Job:
    feeds = {"x": np.zeros((1, 3, size, size), np.float32)}
    return Job(Batch(feeds, 1, {}, False), Request(dict(feeds), 1, 1, "auto", choices), 0.0, due, part)


def lanes(*jobs: Job, most: int = 3) -> Lanes:
    made = Lanes(most)
    for each in jobs:
        made.add(each)
    return made


def test_an_image_waits_until_it_is_due_or_its_lane_is_full():
    waiting = lanes(job(due=5.0), job(due=6.0))
    assert waiting.take(4.0) == [] and waiting.due == 5.0
    assert len(waiting.take(5.0)) == 2
    assert len(lanes(job(due=5.0), job(due=5.0), job(due=5.0)).take(0.0)) == 3


def test_nothing_is_mixed():
    """Neither sizes, nor parts, nor choices: where all are due, each runs alone."""
    waiting = lanes(job(8), job(16), job(8, part=1), job(8, choices={}))
    assert [len(waiting.take(1.0)) for _ in range(5)] == [1, 1, 1, 1, 0]


def test_no_batch_is_too_large_and_the_first_come_first():
    jobs = [job(due=float(i)) for i in range(5)]
    waiting = lanes(*jobs)
    assert waiting.take(9.0) == jobs[:3] and waiting.take(9.0) == jobs[3:]


def test_images_that_have_begun_wait_only_while_others_are_ready():
    begun, fresh = job(part=1, due=9.0), [job(due=1.0) for _ in range(3)]
    waiting = lanes(begun, *fresh)
    assert waiting.take(0.0) == fresh
    assert waiting.take(0.0) == [begun]


def test_images_that_have_begun_and_are_due_go_first():
    begun, fresh = job(part=1, due=2.0), [job(due=1.0) for _ in range(3)]
    assert lanes(begun, *fresh).take(3.0) == [begun]


def test_the_oldest_goes_first_and_of_one_batch_those_at_the_earlier_part():
    head, stage, old = job(part=3, due=2.0), job(part=1, due=2.0), job(16, part=3, due=1.0)
    waiting = lanes(head, stage, old)
    assert [waiting.take(5.0) for _ in range(3)] == [[old], [stage], [head]]


@given(
    st.lists(st.tuples(st.sampled_from([8, 16]), st.integers(0, 2), st.floats(0, 9)), max_size=30),
    st.integers(1, 5),
    st.floats(0, 9),
)
def test_every_image_is_taken_once(images, most, now):
    jobs = [job(size, part, due) for size, part, due in images]
    waiting = lanes(*jobs, most=most)
    taken = []
    while found := waiting.take(now):
        assert len(found) <= most and len({each.lane for each in found}) == 1
        assert len(found) == most or found[0].part or min(each.due for each in found) <= now
        taken += found
    assert all(each.due > now and each.part == 0 for each in jobs if each not in taken)
    while found := waiting.take(float("inf")):
        taken += found
    assert len(waiting) == 0 and {id(each) for each in taken} == {id(each) for each in jobs}
    assert len(taken) == len(jobs)
