import numpy as np
import pytest
from foveate.runtime.native.library import library
from foveate.runtime.rectangles import any_pool, cover, cover_numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70))
halos = st.tuples(*[st.integers(0, 4)] * 4)


def cost(rects: np.ndarray, fixed: float, halo: tuple[int, int, int, int]) -> float:
    size = rects[:, 2:] - rects[:, :2] + (halo[0] + halo[2], halo[1] + halo[3])
    return fixed * len(rects) + float(size.prod(1).sum())


@pytest.fixture(autouse=True, params=["native", "numpy"])
def planner(request, monkeypatch):
    """Every test goes through both planners."""
    if request.param == "numpy":
        monkeypatch.setattr("foveate.runtime.rectangles.library", lambda: None)
    else:
        assert library() is not None, "the native library was not built"


@given(masks, st.floats(0, 300), halos)
def test_every_active_cell_is_covered_inside_the_map(active, fixed, halo):
    rects = cover(active, fixed=fixed, halo=halo)
    covered = np.zeros_like(active)
    for y0, x0, y1, x1 in rects:
        assert 0 <= y0 < y1 <= active.shape[0] and 0 <= x0 < x1 <= active.shape[1]
        covered[y0:y1, x0:x1] = True
    assert covered[active].all()
    assert len(rects) == 0 or active.any()


@given(masks.filter(lambda m: m.any()), st.floats(0, 300), halos)
def test_never_dearer_than_the_bounding_box(active, fixed, halo):
    y, x = np.nonzero(active)
    box = np.array([[y.min(), x.min(), y.max() + 1, x.max() + 1]])
    assert cost(cover(active, fixed=fixed, halo=halo), fixed, halo) <= cost(box, fixed, halo) + 1e-6


def test_two_distant_objects_get_a_rectangle_each():
    active = np.zeros((128, 128), bool)
    active[60:70, 3:13] = True  # both lie across the middle line, where the first cut would fall
    active[58:72, 100:120] = True
    rects = cover(active, fixed=100, halo=(2, 2, 2, 2))
    assert sorted(map(tuple, rects.tolist())) == [(58, 100, 72, 120), (60, 3, 70, 13)]


def test_dear_calls_make_one_rectangle():
    active = np.eye(40, dtype=bool)
    assert cover(active, fixed=1e9).tolist() == [[0, 0, 40, 40]]
    assert len(cover(active, fixed=0)) > 8


@given(masks, st.floats(0.01, 300), halos)
def test_both_planners_find_the_same_cover(active, fixed, halo):
    native, plain = cover(active, fixed=fixed, halo=halo), cover_numpy(active, fixed, halo)
    assert sorted(native.tolist()) == sorted(plain.tolist())


@given(masks, st.integers(1, 5), st.integers(1, 5))
def test_any_pool(active, height, width):
    pooled = any_pool(active, (height, width))
    assert pooled.shape == (-(-active.shape[0] // height), -(-active.shape[1] // width))
    for (y, x), value in np.ndenumerate(pooled):
        assert value == active[y * height : (y + 1) * height, x * width : (x + 1) * width].any()


@given(masks.filter(lambda m: m.any()), st.floats(0, 300), halos)
def test_something_is_active_along_each_border(active, fixed, halo):
    for y0, x0, y1, x1 in cover(active, fixed=fixed, halo=halo):
        inside = active[y0:y1, x0:x1]
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
