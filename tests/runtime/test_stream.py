"""A stream answers as the dense program does, whatever changes between frames, and computes only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline.build import build
from foveate.runtime import Model, load
from foveate.runtime.errors import EngineError, InputError
from foveate.runtime.fallback import Fallback


@pytest.fixture(scope="module")
def video_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convs, pooling, a doubling and a skip; then a head over the whole map."""
    helper, rng = onnx.helper, np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((8, 3, 3, 3)) / 5,
        "w1": rng.standard_normal((8, 8, 3, 3)) / 9,
        "w2": rng.standard_normal((4, 16, 1, 1)) / 4,
        "head": rng.standard_normal((4, 5)),
        "scales": np.array([1, 1, 2, 2]),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w0"], ["a"], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Conv", ["c", "w1"], ["d"], pads=[1] * 4),
        node("Sigmoid", ["d"], ["e"]),
        node("Concat", ["c", "e"], ["f"], axis=1),
        node("Conv", ["f", "w2"], ["map"]),
        node("GlobalAveragePool", ["map"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("MatMul", ["h", "head"], ["scores"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "video",
        [helper.make_tensor_value_info("images", kind, ["batch", 3, "height", "width"])],
        [
            helper.make_tensor_value_info("map", kind, ["batch", 4, None, None]),
            helper.make_tensor_value_info("scores", kind, ["batch", 5]),
        ],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    folder = tmp_path_factory.mktemp("video")
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(program, folder / "video.onnx")
    return build(folder / "video.onnx", folder / "bundle", sample=(1, 3, 32, 48))


@pytest.fixture(scope="module")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One conv."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["map"], pads=[1] * 4)],
        "tiny",
        [helper.make_tensor_value_info("images", kind, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("map", kind, ["batch", 2, None, None])],
        [onnx.numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")],
    )
    folder = tmp_path_factory.mktemp("tiny")
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(program, folder / "tiny.onnx")
    return build(folder / "tiny.onnx", folder / "bundle", sample=(1, 3, 32, 48))


@pytest.fixture(scope="module")
def model(video_bundle: Path):
    with load(video_bundle, threads=2) as opened:
        yield opened


def frames(count: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> list[np.ndarray]:
    """A box that moves over noise."""
    rng = np.random.default_rng(seed)
    background = rng.standard_normal((1, 3, *size)).astype(np.float32)
    made = []
    for i in range(count):
        frame = background.copy()
        frame[:, :, 4 + i : 9 + i, 2 * i : 2 * i + 6] += 1
        made.append(frame)
    return made


def assert_same(found, wanted) -> None:
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_frame_is_the_dense_answer(model: Model):
    stream = model.stream(fallback=False)
    for i, frame in enumerate(frames(8)):
        result = stream(frame)
        assert_same(result, model.dense(frame))
        assert result.strategies["stream"] == ("spans",)
        assert stream.reason == ("" if i else "first") and 0 < stream.work <= stream.full_work
        assert stream.frames == i + 1


def test_a_still_image_computes_nothing(model: Model):
    stream, frame = model.stream(fallback=False), frames(1)[0]
    first = stream(frame)
    second = stream(frame)
    assert stream.changed is not None and not stream.changed.any() and stream.work == 0
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_slow_drift_is_noticed(model: Model):
    """Each step is below the threshold; what has gathered since a position was last propagated is not."""
    stream, frame = model.stream(threshold=0.1, fallback=False), frames(1)[0]
    stream(frame)
    seen = []
    for step in range(1, 8):
        stream(frame + np.float32(0.04 * step))
        assert stream.changed is not None
        seen.append(bool(stream.changed.any()))
    assert seen == [False, False, True, False, False, True, False]


def test_refresh_recomputes_whole_frames(model: Model):
    stream = model.stream(threshold=10.0, refresh=3, fallback=False)
    reasons = []
    for frame in frames(7):
        stream(frame)
        reasons.append(stream.reason)
    assert reasons == ["first", "", "", "refresh", "", "", "refresh"]


def test_the_dense_engine_is_opened_for_the_first_sizes_and_then_for_all(video_bundle: Path):
    sizes = ((32, 48), (40, 40), (33, 47), (32, 48), (16, 20))
    with load(video_bundle, threads=1) as model:
        engines = model.executor.engines
        opened = []
        for size in sizes:
            engines.fix(((1, 3, *size),), program=True)
            opened.append(engines.program_at(((1, 3, *size),)))
        assert opened[0] is opened[3] and opened[2] is opened[4] is engines.program
        with pytest.raises(EngineError):
            opened[0].run({"images": frames(1, (40, 40))[0]})
        for engine, size in zip(opened, sizes, strict=True):
            (frame,) = frames(1, size)
            found = dict(zip(engine.outputs, engine.run({"images": frame}), strict=True))
            for name, value in model.dense(frame).items():
                np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_another_resolution_and_a_reset_begin_anew(model: Model):
    stream = model.stream(fallback=False)
    for size in ((32, 48), (40, 40), (33, 47)):
        for frame in frames(2, size):
            assert_same(stream(frame), model.dense(frame))
        assert stream.frames == 2
    for size in ((33, 47), (48, 32), (16, 20)):  # the same after a reset, then others
        stream.reset()
        assert stream.frames == 0
        frame = frames(1, size)[0]
        result = stream(frame)
        assert stream.reason == "first"
        assert_same(result, model.dense(frame))


def test_two_streams_do_not_mix(model: Model):
    streams, videos = [model.stream(), model.stream()], [frames(5, seed=s) for s in (1, 2)]
    for pair in zip(*videos, strict=True):
        for stream, frame in zip(streams, pair, strict=True):
            assert_same(stream(frame), model.dense(frame))


def test_a_refused_frame_leaves_the_state(model: Model):
    stream, (first, second) = model.stream(fallback=False), frames(2)
    stream(first)
    broken = second.copy()
    broken[0, 0, 5, 5] = np.nan
    for bad in (broken, second.astype(np.float64), np.concatenate([second, second])):
        with pytest.raises(InputError):
            stream(bad)
    assert_same(stream(second), model.dense(second))
    assert stream.frames == 2


def test_answers_are_the_callers(model: Model):
    stream, (first, second) = model.stream(), frames(2)
    for value in stream(first).values():
        value[...] = np.nan
    assert_same(stream(second), model.dense(second))


def test_bytes_are_told(model: Model):
    stream = model.stream()
    assert stream.nbytes == 0
    stream(frames(1)[0])
    assert stream.nbytes > 32 * 48 * 4 * (3 + 8 + 8)


def test_a_state_beyond_its_bound_is_refused(video_bundle: Path):
    frame, small = frames(1)[0], frames(1, (16, 20))[0]
    with load(video_bundle, threads=1, max_state_bytes=90_000) as bounded:
        stream = bounded.stream()
        stream(small)
        with pytest.raises(InputError, match=r"(?s)32×48, whose stream keeps .* max_state_bytes"):
            stream(frame)
        assert_same(stream(small), bounded.dense(small))
        assert stream.frames == 2  # as if nothing had been


def test_a_program_with_decisions_has_no_streams(tiny_bundle: Path):
    with load(tiny_bundle, threads=1) as model, pytest.raises(InputError, match="decisions"):
        model.stream()


def test_either_engine_may_compute_a_frame(model: Model, monkeypatch: pytest.MonkeyPatch):
    """Whichever does, its answer is the dense one. When it should is the law of test_fallback.py."""
    order = [1, 0, 0, 1, 1, 0, 1, 1]
    monkeypatch.setattr(Fallback, "choose", lambda self, foreseen: order[frames_before])
    monkeypatch.setattr(Fallback, "looks", True)
    stream, reasons = model.stream(), []
    for i, frame in enumerate(frames(len(order) + 1)):
        frames_before = i - 1
        result = stream(frame)
        assert_same(result, model.dense(frame))
        assert result.strategies["stream"] == ("dense" if stream.reason == "slower" else "spans",)
        reasons.append(stream.reason)
    assert reasons == ["first", "", "slower", "slower", "resumed", "", "slower", "resumed", ""]


def test_dense_frames_that_nobody_looks_at(model: Model, monkeypatch: pytest.MonkeyPatch):
    """They are refused where they are not finite, and what was not compared is not missed later."""
    order = [0, None, None, 0, None, 1, 1, 1]  # None: not looked at
    monkeypatch.setattr(Fallback, "choose", lambda self, foreseen: plan[0])
    monkeypatch.setattr(Fallback, "looks", property(lambda self: plan[0] is not None))
    plan, clip = list(order), frames(len(order) + 1)
    stream = model.stream()
    stream(clip[0])
    for frame in clip[1:]:
        bad = frame.copy()
        bad[0, 1, 5, 7] = np.nan
        with pytest.raises(InputError, match="NaN"):
            stream(bad)
        assert_same(stream(frame), model.dense(frame))
        del plan[0]
    assert stream.reason == "" and stream.changed is not None


def test_layers_pass_on_what_moved(model: Model):
    """Small changes stop at the first layer that they do not move by its threshold; larger ones do not."""
    (frame,) = frames(1)
    small, large = frame.copy(), frame.copy()
    small[..., 10:14, 10:14] += 1e-3
    large[..., 10:14, 10:14] += 3
    work = {}
    for name, changed in (("small", small), ("large", large)):
        exact, stream = model.stream(fallback=False), model.stream(fallback=False, layer_threshold=0.02)
        for each in (exact, stream):
            each(frame)
        result = stream(changed)
        assert_same(exact(changed), model.dense(changed))
        np.testing.assert_allclose(result["map"], model.dense(changed)["map"], atol=0.1)
        work[name] = stream.work / exact.work
    assert work["small"] < 0.7 and work["small"] < work["large"]


def test_what_a_layer_holds_back_is_kept(model: Model):
    """Steps that each stay below a layer's threshold arrive once they have gathered to more."""
    (frame,) = frames(1)
    stream = model.stream(fallback=False, layer_threshold=0.05)
    first = stream(frame)["map"]
    for step in range(1, 100):
        stream(frame + np.float32(0.02 * step))
    result = stream(frame + np.float32(2.0))
    wanted = model.dense(frame + np.float32(2.0))["map"]
    held, error = np.abs(first - wanted).max(), np.abs(result["map"] - wanted).max()
    assert error < 0.2 * held


def test_no_threshold_changes_nothing(model: Model):
    stream = model.stream(fallback=False, layer_threshold={"b": 0.0})
    for frame in frames(4):
        assert_same(stream(frame), model.dense(frame))
    with pytest.raises(InputError, match="nothing_there"):
        model.stream(layer_threshold={"nothing_there": 0.1})


def test_a_scene_cut_is_computed_whole(model: Model):
    stream = model.stream(cut=0.5, threshold=0.1, fallback=False)
    reasons = []
    for frame in (*frames(2), *frames(2, seed=9)):
        assert_same(stream(frame), model.dense(frame))
        reasons.append(stream.reason)
    assert reasons == ["first", "", "scene cut", ""]


def test_drift_makes_a_frame_whole(model: Model):
    stream, (frame,) = model.stream(threshold=0.1, drift=0.05, fallback=False), frames(1)
    reasons = []
    for step in range(4):
        stream(frame + np.float32(0.03 * step))
        reasons.append(stream.reason)
    assert reasons == ["first", "", "drift", ""]


def test_a_saved_stream_goes_on(model: Model, tmp_path: Path):
    options = {"layer_threshold": 0.05, "threshold": 0.01, "fallback": False}
    first, second = model.stream(**options), model.stream(**options)
    video = frames(6)
    for frame in video[:3]:
        first(frame)
    first.save(tmp_path / "state.npz")
    second.load(tmp_path / "state.npz")
    assert second.frames == 3
    for frame in video[3:]:
        wanted, found = first(frame), second(frame)
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value)
        assert second.reason == "" and second.full_work == first.full_work


def test_a_loaded_state_keeps_the_policy_of_the_stream(model: Model, tmp_path: Path):
    """Thresholds of the stream that saved it are not taken over: an exact stream stays exact."""
    loose, exact = model.stream(fallback=False, layer_threshold=10.0), model.stream(fallback=False)
    first, second = frames(2)
    loose(first)
    loose.save(tmp_path / "state.npz")
    exact.load(tmp_path / "state.npz")
    assert_same(exact(second), model.dense(second))
    assert np.abs(loose(second)["map"] - model.dense(second)["map"]).max() > 1e-3


def test_a_state_that_does_not_fit_is_refused(model: Model, tiny_video: Path, tmp_path: Path):
    stream, path = model.stream(fallback=False), tmp_path / "state.npz"
    with pytest.raises(InputError, match="without a state"):
        stream.save(path)
    assert not path.exists()
    video = frames(3)
    stream(video[0])
    stream.save(path)
    with load(tiny_video, threads=1) as other, pytest.raises(InputError, match="this bundle's"):
        other.stream().load(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:900] + bytes(100) + whole[1000:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"stream\.save wrote"):
            stream.load(path)
    stream(video[1])
    assert stream.frames == 2  # as if nothing had been


def test_bad_options_are_named(model: Model):
    with pytest.raises(InputError, match="speed"):
        model.stream(speed=9)
    with pytest.raises(InputError, match="threshold"):
        model.stream(threshold=-1)
