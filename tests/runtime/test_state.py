"""Reference states and their scratch."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from foveate.runtime.state import Reference, ReferenceCache

KIB = 1024


def reference(value: float = 1.0, elements: int = 256) -> Reference:
    """Of 1 KiB unless told otherwise; with its scratch it needs twice that, a zero one little more than once."""
    return Reference({"t": np.full((1, 1, 1, elements), value, np.float32)})


def test_a_reference_cannot_be_written():
    made = Reference({"zero": np.zeros((1, 2, 3, 4)), "one": np.ones((1, 2, 3, 4))})
    for array in made.arrays.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 2


def test_zeros_are_held_as_one_element():
    zero = reference(0.0)
    assert (zero.held_bytes, zero.scratch_bytes) == (4, KIB)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_scratch_comes_back_as_the_reference(value: float):
    made = Reference({"t": np.full((1, 2, 8, 8), value, np.float32)})
    scratch = made.new_scratch()
    place = (slice(None), slice(None), slice(2, 5), slice(3, 8))
    scratch.arrays["t"][place] = 7
    scratch.dirtied.append(("t", place))
    made.restore(scratch)
    np.testing.assert_array_equal(scratch.arrays["t"], made.arrays["t"])
    assert not scratch.dirtied


def test_scratch_is_pooled_and_lent_to_one_at_a_time():
    cache = ReferenceCache(64 * KIB)
    made = cache.get("k", reference)
    assert made is not None
    one, other = cache.borrow(made), cache.borrow(made)
    assert one is not other
    cache.give_back(made, one)
    assert cache.borrow(made) is one


def test_the_least_recently_used_goes_first():
    cache = ReferenceCache(4 * KIB)
    for key in "ab":
        cache.get(key, reference)
    cache.get("a", reference)
    cache.get("c", reference)
    assert (len(cache), cache.built, cache.evicted) == (2, 3, 1)
    cache.get("a", reference)
    assert cache.built == 3
    cache.get("b", reference)
    assert cache.built == 4
    assert cache.nbytes <= cache.limit


def test_pooled_scratch_counts():
    cache = ReferenceCache(3 * KIB)
    made = cache.get("a", reference)
    assert made is not None
    lent = [cache.borrow(made) for _ in range(3)]
    for scratch in lent:
        cache.give_back(made, scratch)
    assert len(made.pool) == 2
    assert cache.nbytes == 3 * KIB


def test_one_above_the_limit_is_refused_and_not_built_again(caplog: pytest.LogCaptureFixture):
    cache = ReferenceCache(KIB)
    builds = []

    def build() -> Reference:
        builds.append(1)
        return reference()

    assert cache.get("a", build) is None
    assert cache.get("a", build) is None
    assert len(builds) == 1 and cache.refused == 1 and len(cache) == 0
    assert cache.get("b", build, lambda: 2 * KIB) is None
    assert len(builds) == 1, "an estimate above the limit saves building"
    assert "cache_bytes" in caplog.text


def test_scratch_of_an_evicted_reference_is_dropped():
    cache = ReferenceCache(64 * KIB)
    made = cache.get("a", reference)
    assert made is not None
    scratch = cache.borrow(made)
    cache.clear()
    cache.give_back(made, scratch)
    assert not made.pool and cache.nbytes == 0


def test_concurrent_callers_build_once_and_never_share_scratch():
    cache = ReferenceCache(1024 * KIB)
    in_use: set[int] = set()
    lock = threading.Lock()

    def work(_: int) -> None:
        made = cache.get("a", reference)
        assert made is not None
        scratch = cache.borrow(made)
        with lock:
            assert id(scratch) not in in_use
            in_use.add(id(scratch))
        assert (scratch.arrays["t"] == 1).all()
        scratch.arrays["t"][...] = 5
        scratch.dirtied.append(("t", (slice(None),)))
        with lock:
            in_use.discard(id(scratch))
        cache.give_back(made, scratch)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert cache.built == 1
