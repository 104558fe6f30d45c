"""Selective execution is the dense program: for every mask, at every resolution, borders included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from foveate.runtime import Model, load
from foveate.runtime.geometry import support
from foveate.runtime.manifest import Region
from foveate.runtime.result import new_timing
from foveate.runtime.selective import plan_region
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOLERANCE = 1e-5  # relative: float reordering only
MakeImage = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def model(handmade: Path) -> Iterator[Model]:
    with load(handmade, threads=1, strategy="rects") as opened:
        yield opened


def named_mask(name: str, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    if name == "full":
        mask[...] = True
    elif name == "pixel":
        mask[size[0] // 2, size[1] // 3] = True
    elif name == "checkerboard":
        mask[::2, ::2] = mask[1::2, 1::2] = True
    elif name == "border":
        mask[[0, -1]] = mask[:, [0, -1]] = True
    elif name == "corner":
        mask[-1, -1] = True
    return mask


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    size = draw(st.integers(8, 70)), draw(st.integers(8, 70))
    mask = np.zeros(size, bool)
    for _ in range(draw(st.integers(0, 4))):
        y, x = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
        mask[y : y + draw(st.integers(1, 30)), x : x + draw(st.integers(1, 30))] = True
    return mask


def assert_exact(model: Model, image: np.ndarray) -> None:
    found, expected = model(image), model.dense(image)
    for name, value in expected.items():
        error = np.abs(found[name] - value).max() / max(np.abs(value).max(), 1e-30)
        assert error <= TOLERANCE, f"{name}: {error}"


@pytest.mark.parametrize("name", ["empty", "full", "pixel", "checkerboard", "border", "corner"])
@pytest.mark.parametrize("size", [(64, 64), (63, 41), (9, 9), (8, 130)])
def test_named_masks(model: Model, make_image: MakeImage, name: str, size: tuple[int, int]):
    assert_exact(model, make_image(named_mask(name, size)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=masks(), seed=st.integers(0, 9))
def test_any_mask(model: Model, make_image: MakeImage, mask: np.ndarray, seed: int):
    assert_exact(model, make_image(mask, seed))


def test_an_empty_mask_computes_nothing(model: Model, make_image: MakeImage):
    result = model(make_image(named_mask("empty", (64, 64))))
    assert result.timing["compute"] == 0.0
    assert result.strategies["region0"] == ("rects",)
    assert result["d"].any(), "the reference of an unmasked conv is not zero"


def test_a_request_leaves_nothing_behind(model: Model, make_image: MakeImage):
    """Scratch that was dirtied by one image must not show in the next."""
    empty, full = (make_image(named_mask(name, (64, 64))) for name in ("empty", "pixel"))
    before = model(empty)["d"].copy()
    model(full)
    np.testing.assert_array_equal(model(empty)["d"], before)


def test_outputs_are_the_callers(model: Model, make_image: MakeImage):
    image = make_image(named_mask("pixel", (64, 64)))
    first = model(image)
    kept = {name: value.copy() for name, value in first.items()}
    for value in first.values():
        value[...] = np.nan
    second = model(image)
    for name, value in kept.items():
        np.testing.assert_array_equal(second[name], value)


def test_the_new_state_serves_as_the_next_reference(model: Model, make_image: MakeImage):
    """What a stream does: the state of one frame is the reference of the next, and only the change is computed."""
    executor = model.executor
    region = next(s for s in model.manifest.steps if isinstance(s, Region))
    stem = executor.engines["programs/stem.onnx"]

    def inputs(mask: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(stem.outputs, stem.run({"images": make_image(mask)}), strict=True))

    old, new = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    old[8:20, 8:20] = new[8:20, 16:30] = True
    first, second = inputs(old), inputs(new)
    reference, grid = executor.reference(region, first, {}, {})  # type: ignore[misc]
    state = reference.new_scratch()
    selective = executor.selective[region.name]
    for tensors, dirty in (
        (first, {name: support(first[name]) for name in region.masks}),
        (second, {name: support(first[name] - second[name]) for name in region.masks}),
    ):
        plan = plan_region(grid, dirty)
        assert plan is not None
        selective.run(grid, plan, tensors, state, {}, new_timing())
        fallback = executor.engines[region.fallback].run({name: tensors[name] for name in region.inputs})
        for name, expected in zip(region.outputs, fallback, strict=True):
            np.testing.assert_allclose(tensors[name], expected, rtol=1e-5, atol=1e-6)


def test_a_plan_stops_where_it_cannot_win(model: Model, make_image: MakeImage):
    executor = model.executor
    region = next(s for s in model.manifest.steps if isinstance(s, Region))
    stem = executor.engines["programs/stem.onnx"]
    tensors = dict(zip(stem.outputs, stem.run({"images": make_image(np.ones((64, 64), bool))}), strict=True))
    _, grid = executor.reference(region, tensors, {}, {})  # type: ignore[misc]
    dirty = {name: support(tensors[name]) for name in region.masks}
    plan = plan_region(grid, dirty)
    assert plan is not None and all(w is not None and w.whole for w in plan.windows)
    assert plan_region(grid, dirty, plan.predicted_ms / 2) is None
    assert plan_region(grid, dirty, plan.predicted_ms * 1.01) is not None
