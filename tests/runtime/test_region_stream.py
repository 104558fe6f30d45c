"""Changed regions as crops: exact where the margin holds what outputs depend on, a measured error elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline.build import build
from foveate.runtime import Model, load
from foveate.runtime.call_times import CallTimes
from foveate.runtime.crops import Crops, blend, weights
from foveate.runtime.errors import InputError
from foveate.runtime.manifest import CropPlan, GridTensor
from foveate.runtime.region_policy import RegionPolicy
from foveate.runtime.region_stream import RegionStream, measure_error
from hypothesis import given, settings
from hypothesis import strategies as st

REACH = 4  # pixels from an output's centre to the farthest input of `local`, rounded up
MakeModel = Callable[..., Model]


def nodes_of(kind: str) -> list[onnx.NodeProto]:
    """Two convs, with stride 2 between; `labels` tell the largest channel. "global" is scaled by its mean."""
    node = onnx.helper.make_node
    made = [
        node("Transpose", ["images"], ["chw"], perm=[0, 3, 1, 2] if kind == "nhwc" else [0, 1, 2, 3]),
        node("Conv", ["chw", "w0"], ["a"], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    ]
    if kind == "global":
        made += [
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Sigmoid", ["g"], ["s"]),
            node("Mul", ["c", "s"], ["scaled"]),
        ]
    last = "scaled" if kind == "global" else "c"
    made.append(node("Conv", [last, "w1"], ["map"], pads=[1] * 4))
    made.append(node("ArgMax", ["map"], ["labels"], axis=1, keepdims=0))
    if kind == "scores":
        made += [node("GlobalAveragePool", ["map"], ["scores"])]
    if kind == "fixed":
        made += [node("Reshape", ["map", "shape"], ["rows"])]
    return made


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory):
    """`make_model(kind)`: "local", "nhwc", "global", "scores" (an output that is no map) or "fixed" (one size)."""
    opened: dict[str, Model] = {}

    def make(kind: str = "local") -> Model:
        if kind in opened:
            return opened[kind]
        helper, rng, float32 = onnx.helper, np.random.default_rng(0), onnx.TensorProto.FLOAT
        tensors = {
            "w0": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
            "w1": rng.standard_normal((4, 8, 3, 3)).astype(np.float32) / 9,
            "shape": np.array([1, 4, 16 * 24]),
        }
        image = ["batch", "height", "width", 3] if kind == "nhwc" else ["batch", 3, "height", "width"]
        sample = (1, 32, 48, 3) if kind == "nhwc" else (1, 3, 32, 48)
        answers = [("map", float32, ["batch", 4, None, None])]
        answers += [("labels", onnx.TensorProto.INT64, ["batch", None, None])]
        answers += [("scores", float32, ["batch", 4, 1, 1])] * (kind == "scores")
        answers += [("rows", float32, ["batch", 4, None])] * (kind == "fixed")
        graph = helper.make_graph(
            nodes_of(kind),
            kind,
            [helper.make_tensor_value_info("images", float32, image)],
            [helper.make_tensor_value_info(*answer) for answer in answers],
            [onnx.numpy_helper.from_array(v, k) for k, v in tensors.items()],
        )
        program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        folder: Path = tmp_path_factory.mktemp(kind)
        onnx.save(program, folder / f"{kind}.onnx")
        bundle = build(folder / f"{kind}.onnx", folder / "bundle", sample=sample)
        opened[kind] = load(bundle, threads=1)
        return opened[kind]

    yield make
    for model in opened.values():
        model.close()


def regions(model: Model, **options) -> RegionStream:
    """Crops always, whatever they cost, and as small as they may be."""
    stream = model.stream(mode="regions", **{"fallback": False, "side": 0, **options})
    assert isinstance(stream, RegionStream)
    return stream


def noise(size: tuple[int, int] = (96, 120), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, *size)).astype(np.float32)


def with_box(frame: np.ndarray, y: int, x: int, high: int, wide: int) -> np.ndarray:
    """A copy that differs in a box."""
    changed = frame.copy()
    changed[:, :, y : y + high, x : x + wide] += 1
    return changed


class Calls:
    """The sizes that a stream ran its program on."""

    def __init__(self, stream: RegionStream):
        self.sizes: list[tuple[int, int]] = []
        run = stream._run

        def counted(image: np.ndarray) -> Mapping[str, np.ndarray]:
            self.sizes.append(image.shape[2:])
            return run(image)

        stream._run = counted


def test_a_still_image_runs_nothing(make_model: MakeModel):
    stream, frame = regions(make_model()), noise()
    first, calls = stream(frame), Calls(stream)
    second = stream(frame)
    assert calls.sizes == [] and stream.work == 0 and stream.reason == ""
    assert stream.changed is not None and not stream.changed.any()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_small_change_runs_a_small_crop(make_model: MakeModel):
    model = make_model()
    stream, frame = regions(model, margin=16), noise()
    stream(frame)
    calls, changed = Calls(stream), with_box(frame, 40, 50, 4, 5)
    result = stream(changed)
    assert calls.sizes == [(48, 48)] and stream.work == 48 * 48 and stream.full_work == 96 * 120
    assert result.strategies["stream"] == ("regions",)
    assert stream.changed is not None and stream.changed.sum() == 4 * 5
    np.testing.assert_allclose(result["map"], model.dense(changed)["map"], atol=1e-5)


def test_crops_have_a_least_side_and_near_ones_are_joined(make_model: MakeModel):
    sizes = {}
    for side in (0, 96):
        stream, frame = regions(make_model(), margin=16, side=side), noise((400, 400))
        stream(frame)
        calls = Calls(stream)
        stream(with_box(with_box(frame, 32, 32, 32, 4), 32, 200, 32, 4))
        sizes[side] = calls.sizes
    assert len(sizes[0]) == 2 and len(sizes[96]) == 1 and min(sizes[96][0]) >= 96


def test_everything_changed_is_the_dense_answer(make_model: MakeModel):
    model = make_model("global")
    stream = model.stream(mode="regions")
    stream(noise())
    result = stream(noise(seed=1))
    assert stream.reason == "slower" and stream.changed is None and result.strategies["stream"] == ("dense",)
    for name, value in model.dense(noise(seed=1)).items():
        np.testing.assert_array_equal(result[name], value)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_local_programs_are_exact_where_the_margin_suffices(make_model: MakeModel, data: st.DataObject):
    model = make_model()
    size = data.draw(st.tuples(st.integers(8, 120), st.integers(8, 120)))
    width = data.draw(st.integers(0, 12))
    margin = data.draw(st.integers(2 * REACH + width, 2 * REACH + width + 20))
    stream, frame = regions(model, margin=margin, blend=width), noise(size)
    stream(frame)
    for _ in range(data.draw(st.integers(1, 3))):
        for _ in range(data.draw(st.integers(0, 3))):
            y, x = (data.draw(st.integers(0, n - 1)) for n in size)
            frame = with_box(frame, y, x, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))
        result, wanted = stream(frame), model.dense(frame)
        np.testing.assert_allclose(result["map"], wanted["map"], atol=1e-5)
        assert stream.reason == ""


def test_channels_may_stand_last(make_model: MakeModel):
    model = make_model("nhwc")
    stream, frame = regions(model), noise()
    stream(frame.transpose(0, 2, 3, 1))
    calls, changed = Calls(stream), with_box(frame, 40, 50, 4, 5)
    result = stream(changed.transpose(0, 2, 3, 1))
    assert len(calls.sizes) == 1 and stream.work < stream.full_work
    assert stream.changed is not None and stream.changed.sum() == 4 * 5
    np.testing.assert_allclose(result["map"], make_model().dense(changed)["map"], atol=1e-5)


def test_a_margin_that_is_too_small_is_not(make_model: MakeModel):
    """So the test above can fail. A change at a cell's edge reaches its neighbour."""
    model = make_model()
    stream, frame = regions(model, margin=0, blend=0), noise()
    stream(frame)
    frame = with_box(frame, 32, 32, 16, 16)
    assert np.abs(stream(frame)["map"] - model.dense(frame)["map"]).max() > 1e-2


def test_the_error_of_global_ops_is_measured(make_model: MakeModel):
    model = make_model("global")
    stream, frame = regions(model, margin=24, audit=3), noise()
    stream(frame)
    for i in range(1, 3):
        result = stream(with_box(frame, 8 * i, 10, 8, 8))
        assert stream.error == {} and stream.reason == ""
    frame = with_box(frame, 24, 10, 8, 8)
    unaudited = regions(model, margin=24)
    for i in range(3):
        unaudited(noise() if i == 0 else with_box(noise(), 8 * i, 10, 8, 8))
    pasted = unaudited(frame)
    result, wanted = stream(frame), model.dense(frame)
    assert stream.reason == "audit" and stream.frames == 1
    difference, extent = np.abs(pasted["map"] - wanted["map"]), np.ptp(wanted["map"])
    found = stream.error["map"]
    assert found.mean == pytest.approx(difference.mean(), rel=1e-4) and found.mean > 1e-5
    assert found.max == pytest.approx(difference.max(), rel=1e-4)
    assert found.share == pytest.approx(difference.mean() / extent, rel=1e-4)
    assert stream.error["labels"].mean == (pasted["labels"] != wanted["labels"]).mean()
    for name, value in wanted.items():  # an audited frame has the whole frame's answer
        np.testing.assert_array_equal(result[name], value)


def test_error_of_equal_and_of_constant_outputs():
    zeros = np.zeros((1, 1, 2, 2), np.float32)
    assert measure_error(zeros, zeros).share == 0
    assert measure_error(zeros + 1, zeros).share == 1
    assert measure_error(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 9])).mean == 0.25


def test_refresh_scene_cut_and_drift(make_model: MakeModel):
    model, frame = make_model(), noise()
    stream = regions(model, threshold=10.0, refresh=2)
    assert [(stream(noise(seed=i)), stream.reason)[1] for i in range(5)] == [
        "first",
        "",
        "refresh",
        "",
        "refresh",
    ]
    stream = regions(model, cut=0.5)
    stream(frame)
    stream(noise(seed=1))
    assert stream.reason == "scene cut"
    stream = regions(model, threshold=0.5, drift=0.1)
    stream(frame)
    stream(frame + np.float32(0.05))
    assert stream.reason == ""
    stream(frame + np.float32(0.2))
    assert stream.reason == "drift"


def test_slow_drift_is_noticed(make_model: MakeModel):
    stream, frame = regions(make_model(), threshold=0.1), noise()
    stream(frame)
    seen = []
    for step in range(1, 8):
        stream(frame + np.float32(0.04 * step))
        assert stream.changed is not None
        seen.append(bool(stream.changed.any()))
    assert seen == [False, False, True, False, False, True, False]


def test_another_resolution_and_a_reset_begin_anew(make_model: MakeModel):
    model = make_model()
    stream = regions(model)
    for size in ((64, 80), (40, 40), (33, 47)):
        for i in range(2):
            result = stream(with_box(noise(size), 5, 5 + i, 4, 4))
            assert result["map"].shape[2:] == (-(-size[0] // 2), -(-size[1] // 2))
        assert stream.frames == 2 and stream.reason == ""
    stream.reset()
    assert stream.frames == 0 and stream.nbytes == 0
    stream(noise((33, 47)))
    assert stream.reason == "first" and stream.nbytes > 33 * 47 * 3 * 4


def test_refused_frames_leave_the_state(make_model: MakeModel):
    model = make_model()
    stream, frame = regions(model), noise()
    stream(frame)
    changed = with_box(frame, 10, 10, 5, 5)
    broken = changed.copy()
    broken[0, 0, 50, 50] = np.nan
    for bad in (broken, changed.astype(np.float64), changed[:, :2], np.concatenate([changed, changed])):
        with pytest.raises(InputError):
            stream(bad)
    result = stream(changed)
    assert stream.frames == 2 and stream.reason == ""
    np.testing.assert_allclose(result["map"], model.dense(changed)["map"], atol=1e-5)


def test_a_failed_run_begins_anew(make_model: MakeModel):
    model = make_model()
    stream, frame = regions(model), noise()
    stream(frame)
    run, stream._run = stream._run, lambda image: (_ for _ in ()).throw(RuntimeError("engine"))
    with pytest.raises(RuntimeError, match="engine"):
        stream(with_box(frame, 10, 10, 5, 5))
    stream._run = run
    result = stream(frame)
    assert stream.reason == "first"
    np.testing.assert_array_equal(result["map"], model.dense(frame)["map"])


def test_a_program_whose_crops_do_not_fit_is_refused(make_model: MakeModel):
    """Say, one that pads its image to multiples of a size that its maps do not tell."""
    stream, frame = regions(make_model()), noise()
    stream(frame)
    run = stream._run
    stream._run = lambda image: {name: value[..., :-1] for name, value in run(image).items()}
    with pytest.raises(InputError, match=r"output 'map'.*its part of the frame's \[1, 4, 48, 60\]"):
        stream(with_box(frame, 10, 10, 5, 5))
    assert stream.frames == 0


def test_a_state_beyond_the_limit_is_refused(make_model: MakeModel):
    with load(make_model().path, max_state_bytes=300_000) as model:
        stream = regions(model)
        stream(noise((96, 120)))
        with pytest.raises(InputError, match="max_state_bytes"):
            stream(noise((192, 240)))
        assert stream.nbytes == 0
        stream(noise((96, 120)))
        assert stream.reason == "first" and stream.nbytes <= 300_000


def test_answers_are_the_callers(make_model: MakeModel):
    model = make_model()
    stream, frame = regions(model), noise()
    stream(frame)["map"][...] = np.nan
    np.testing.assert_array_equal(stream(frame)["map"], model.dense(frame)["map"])


def test_two_streams_do_not_mix(make_model: MakeModel):
    model = make_model()
    streams, videos = [regions(model), regions(model)], [noise(seed=1), noise(seed=2)]
    for i in range(4):
        for stream, frame in zip(streams, videos, strict=True):
            changed = with_box(frame, 10 * i, 10, 6, 6)
            np.testing.assert_allclose(stream(changed)["map"], model.dense(changed)["map"], atol=1e-5)


def test_any_backend_will_do(make_model: MakeModel):
    with load(make_model().path, backend="null") as model:
        stream, frame = regions(model), noise()
        stream(frame)
        result = stream(with_box(frame, 10, 10, 5, 5))
        assert result.strategies["stream"] == ("regions",) and result["map"].shape == (1, 4, 48, 60)


@pytest.mark.parametrize(
    ("kind", "reason"), [("scores", r"output 'scores' \[batch, 4, 1, 1\]"), ("fixed", "resolution only")]
)
def test_programs_without_crops_are_refused_by_name(make_model: MakeModel, kind: str, reason: str):
    with pytest.raises(InputError, match=reason):
        make_model(kind).stream(mode="regions")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"margins": 3}, "margins"),
        ({"margin": -1}, "margin -1"),
        ({"margin": 4, "blend": 5}, "blend 5"),
        ({"audit": -1}, "audit -1"),
        ({"side": -1}, "side -1"),
        ({"layer_threshold": 0.1}, "layer_threshold"),
        ({"threshold": -1.0}, "threshold"),
    ],
)
def test_bad_options_are_named(make_model: MakeModel, options: dict, name: str):
    with pytest.raises(InputError, match=name):
        make_model().stream(mode="regions", **options)


@settings(deadline=None)
@given(data=st.data())
def test_crops_hold_the_margin_and_are_cells_of_the_image(data: st.DataObject):
    cell = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    plan = CropPlan(GridTensor("x", cell), (GridTensor("y", cell),))
    size, least = (data.draw(st.tuples(st.integers(1, 200), st.integers(1, 100))) for _ in range(2))
    margin = data.draw(st.integers(0, 50))
    y, x = (data.draw(st.integers(0, n - 1)) for n in size)
    rect = [y, x, data.draw(st.integers(y + 1, size[0])), data.draw(st.integers(x + 1, size[1]))]
    crops = Crops(plan, RegionPolicy(margin=margin, blend=0), least, np.array([rect]), size)
    (crop,) = crops.images
    for i, part in enumerate(crop[2:]):
        assert part.start % cell[i] == 0 and (part.stop % cell[i] == 0 or part.stop == size[i])
        assert 0 <= part.start <= max(0, rect[i] - margin)
        assert min(size[i], rect[i + 2] + margin) <= part.stop <= size[i]
        assert part.stop - part.start >= min(least[i], size[i])
    assert crops.areas == [(crop[2].stop - crop[2].start) * (crop[3].stop - crop[3].start)]


def test_weights_fall_along_the_ramp():
    distance = np.array([-5, 0, 12, 14, 16, 18, 20, 30], np.float64)
    np.testing.assert_allclose(
        weights(distance, RegionPolicy(margin=32, blend=8)), [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    )
    np.testing.assert_array_equal(
        weights(distance, RegionPolicy(margin=32, blend=0)), [1, 1, 1, 1, 1, 0, 0, 0]
    )


def test_blending_mixes_floats_and_chooses_labels():
    weight = np.array([0, 0.25, 0.5, 1], np.float32)
    values = np.array([-np.inf, 4, 4, np.inf], np.float32)  # infinite where nothing is mixed
    blend(np.array([np.inf, 8, 8, 8], np.float32), values, weight)
    np.testing.assert_array_equal(values, [-np.inf, 5, 6, 8])
    labels = np.array([1, 1, 1, 1])
    blend(np.array([2, 2, 2, 2]), labels, weight)
    np.testing.assert_array_equal(labels, [1, 1, 2, 2])


def test_pixels_of_a_pasted_ramp(make_model: MakeModel):
    """The program is replaced by one that answers 0 for the frame and 1 for crops: outputs are then the weights."""
    stream = regions(make_model(), margin=32, blend=16)
    run = stream._run
    stream._run = lambda image: {
        name: np.full_like(value, image.shape[3] < 160) for name, value in run(image).items()
    }
    frame = noise((64, 160))
    stream(frame)
    row = stream(with_box(frame, 20, 64, 4, 16))["map"][0, 0, 10]  # pixels 64 to 80: positions 32 to 40
    assert row[32:40].min() == 1
    # centres 81, 83 … are 1, 3 … pixels from there; the ramp is 16 wide around 16
    wanted = np.clip((24 - np.arange(1, 33, 2)) / 16, 0, 1)
    np.testing.assert_allclose(row[40:56], wanted, atol=1e-6)
    np.testing.assert_allclose(row[16:32], wanted[::-1], atol=1e-6)
    assert row[56:].max() == row[:16].max() == 0


def test_image_borders_have_no_ramp(make_model: MakeModel):
    stream = regions(make_model(), margin=32, blend=16)
    run = stream._run
    stream._run = lambda image: {
        name: np.full_like(value, image.shape[3] < 160) for name, value in run(image).items()
    }
    frame = noise((64, 160))
    stream(frame)
    answer = stream(with_box(frame, 0, 0, 64, 10))["map"][0, 0]
    assert answer[:, :8].min() == 1 and answer[0, 79] == 0


def test_times_are_learned():
    """A run that takes 4 ms beside 96 ms for the frame."""
    times = CallTimes()
    for _ in range(8):
        times.saw_whole(100.0)
    for _ in range(60):
        for share in (0.05, 0.2, 0.6):
            times.saw_crop(share, 4 + 96 * share)
    assert times.ms(1, 0.5) == pytest.approx(52, rel=0.02) and times.ms(3, 0.1) == pytest.approx(
        21.6, rel=0.02
    )
    assert times.fixed_share == pytest.approx(4 / 96, rel=0.05)
    for _ in range(60):
        times.saw_crop(0.9, 300.0)  # dear crops: a whole frame is better …
    assert times.ms(1, 0.6) > times.ms(1, 0.05) > 20
    before = times.fixed
    assert not times.pays(1, 1.0) and times.fixed == before  # whatever a run costs
    refused = 0
    while not times.pays(2, 0.6):  # … until they are tried again
        refused += 1
    assert 3 < refused < 100


def test_crops_that_are_slower_give_way(make_model: MakeModel):
    stream, frame = make_model().stream(mode="regions"), noise()
    stream(frame)
    stream._times.whole, stream._times.fixed = 1.0, 1.0
    stream(with_box(frame, 10, 10, 2, 2))
    assert stream.reason == "slower" and stream.work == stream.full_work
