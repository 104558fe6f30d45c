"""Videos through an encoder with exits: local layers follow the changes, what lies behind runs as deep as asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from foveate.pipeline.build import build
from foveate.runtime import Model, load
from foveate.runtime.errors import DecisionError
from foveate.runtime.fallback import Fallback
from foveate.runtime.manifest import ExitChain
from foveate.runtime.native.library import library

from ..early_exits import EXITS, exit_program

SIZE = (64, 96)

pytestmark = pytest.mark.skipif(library() is None, reason="the native library was not built")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    return build(exit_program(folder / "exits.onnx"), folder / "bundle", sample=(1, 3, *SIZE))


@pytest.fixture
def model(bundle: Path) -> Iterator[Model]:
    with load(bundle, threads=1) as opened:
        yield opened


def clip(count: int = 12) -> Iterator[np.ndarray]:
    """Noise whose contrast grows, and with it the depth; of most frames a patch alone changes."""
    rng = np.random.default_rng(0)
    frame = rng.standard_normal((1, 3, *SIZE)).astype(np.float32)
    for number in range(count):
        if number % 4 == 0:
            frame = frame * np.float32(0.2 if number == 0 else 4)
        else:
            frame = frame.copy()
            frame[..., 8:24, 16:40] = rng.standard_normal((1, 3, 16, 24)).astype(np.float32)
        yield frame


def assert_same(model: Model, stream, frame: np.ndarray) -> int:
    found, wanted = stream(frame), model.dense(frame)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)
    assert found.depth is not None and found.depth.tolist() == wanted["depth"].tolist()
    depth = int(found.depth[0])
    ran = [name for name in found.segments if name.startswith("exits.")]
    assert ran == [f"exits.{exit}" for exit in EXITS[1:] if exit <= depth]  # nothing that was left behind
    return depth


def force(model: Model, at: int) -> None:
    """Has all images leave at one exit."""
    model.set_choices({"gate0.offset": [1e6 if i == at else 0.0 for i in range(len(EXITS))]})


def test_the_plan_ends_before_the_exits(model: Model):
    plan, steps = model.manifest.stream, model.manifest.steps
    assert plan is not None
    chain = steps[plan.then]
    assert isinstance(chain, ExitChain)
    stages = {name for stage in chain.stages for name in stage.outputs}
    assert not stages & {*plan.outputs, *plan.rest_outputs}
    assert {chain.depth, chain.shallow} <= {*plan.outputs, *plan.rest_outputs}
    assert 0 < plan.share < 1


def test_frames_are_as_deep_as_their_gate_asks(model: Model):
    stream = model.stream(fallback=False)
    depths, selective = set(), 0
    for frame in clip():
        depths.add(assert_same(model, stream, frame))
        selective += not stream.reason and stream.work < stream.full_work / 2
    assert len(depths) > 1 and selective >= 6


@pytest.mark.parametrize("layout", ["per-depth", "if"])
def test_a_stream_takes_the_exits_whatever_layout_images_take(bundle: Path, layout: str):
    with load(bundle, threads=1, layout=layout) as model:
        stream = model.stream(fallback=False)
        depths = {assert_same(model, stream, frame) for frame in clip()}
        assert len(depths) > 1
        assert model(next(clip()))["depth"].shape == (1,)


def test_where_the_dense_engine_takes_over_the_exits_follow_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At either narrow place of the backbone, and for whole frames."""
    deep = build(exit_program(tmp_path / "deep.onnx", convs=5), tmp_path / "bundle", sample=(1, 3, *SIZE))
    levels = [3, 2, 1, 0, 1, 3, 0, 2, 2, 3, 3]
    left = iter(levels)
    monkeypatch.setattr(Fallback, "choose", lambda self, foreseen: next(left))
    monkeypatch.setattr(Fallback, "looks", True)
    with load(deep, threads=1) as model:
        assert model.manifest.stream is not None and len(model.manifest.stream.tails) == 2
        stream = model.stream(cut=2.0)  # more than all there is: no frame begins anew
        for number, frame in enumerate(clip(len(levels) + 1)):
            at = number % len(EXITS)
            force(model, at)
            assert assert_same(model, stream, frame) == EXITS[at]
    assert next(left, None) is None


@pytest.mark.parametrize("at", range(len(EXITS)))
def test_choices_hold_for_frames_to_come(model: Model, at: int):
    stream = model.stream()
    frames = list(clip(3))
    stream(frames[0])
    force(model, at)
    for frame in frames[1:]:
        assert assert_same(model, stream, frame) == EXITS[at]


def test_a_frame_without_finite_scores_is_refused_and_the_next_begins_anew(model: Model):
    stream = model.stream()
    first, *frames = clip(3)
    stream(first)
    with pytest.raises(DecisionError, match="image 0"):
        stream(first / np.abs(first).max() * np.float32(3e38))
    for frame in frames:
        assert_same(model, stream, frame)
    assert stream.frames == 2


def test_layers_that_something_else_reads_are_all_computed(tmp_path: Path):
    """Without a cut at the exits, a stream still takes the gate's choices."""
    peek = build(exit_program(tmp_path / "peek.onnx", peek=True), tmp_path / "bundle", sample=(1, 3, *SIZE))
    with load(peek, threads=1) as model:
        model.set_choices({"gate0.offset": [0.0, 1e6, 0.0]})
        stream = model.stream(fallback=False)
        for frame in clip(3):
            found, wanted = stream(frame), model.dense(frame)
            assert found["depth"].tolist() == wanted["depth"].tolist() == [EXITS[1]]
            np.testing.assert_allclose(found["classes"], wanted["classes"], rtol=1e-4, atol=1e-4)
