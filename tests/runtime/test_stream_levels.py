"""Whatever part of a frame the dense engine computes, the answer is the dense one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline.build import build
from foveate.runtime import Model, load
from foveate.runtime.errors import EngineError, InputError
from foveate.runtime.fallback import Fallback
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SIZE = (32, 48)
helper = onnx.helper


@pytest.fixture(scope="module")
def deep_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images; residual blocks of 48 channels, of which three are outputs, then a head over the whole map."""
    rng, weights, nodes = np.random.default_rng(0), {}, []

    def add(op: str, inputs: Sequence[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def conv(x: str, name: str, read: int, made: int, stride: int = 1) -> str:
        weights[f"{name}.w"] = rng.standard_normal((made, read, 3, 3)) / np.sqrt(9 * read)
        return add("Conv", [x, f"{name}.w"], name, pads=[1] * 4, strides=[stride] * 2)

    joined = add("Concat", ["left", "right"], "joined", axis=1)
    x = add("Relu", [conv(joined, "stem", 6, 48, stride=2)], "stem.relu")
    for block in range(4):
        y = add("Relu", [conv(x, f"{block}.0", 48, 48)], f"{block}.relu")
        x = add("Add", [conv(y, f"{block}.1", 48, 48), x], f"block{block}")
        if block == 1:
            add("Sigmoid", [x], "middle")
    add("Conv", ["block3", "last.w"], "map")
    weights["last.w"] = rng.standard_normal((4, 48, 1, 1)) / 7
    weights["head"] = rng.standard_normal((4, 5))
    add("Flatten", [add("GlobalAveragePool", ["map"], "pooled")], "flat")
    add("MatMul", ["flat", "head"], "scores")

    def value(name: str, *shape: str | int | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "deep",
        [value(name, "batch", 3, "height", "width") for name in ("left", "right")],
        [
            value("middle", "batch", 48, None, None),
            value("map", "batch", 4, None, None),
            value("scores", "batch", 5),
        ],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    folder = tmp_path_factory.mktemp("deep")
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(program, folder / "deep.onnx")
    sample = {name: (1, 3, *SIZE) for name in ("left", "right")}
    return build(folder / "deep.onnx", folder / "bundle", sample=sample)


@pytest.fixture(scope="module")
def model(deep_bundle: Path) -> Iterator[Model]:
    with load(deep_bundle, threads=2) as opened:
        yield opened


def frames(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> list[dict[str, np.ndarray]]:
    """A box that moves over noise, in both images."""
    rng, made = np.random.default_rng(seed), []
    background = {name: rng.standard_normal((1, 3, *size)).astype(np.float32) for name in ("left", "right")}
    for i in range(count):
        frame = {name: value.copy() for name, value in background.items()}
        for offset, value in enumerate(frame.values()):
            value[..., 4 + i % 20 : 9 + i % 20, (2 * i + offset) % 40 : (2 * i + offset) % 40 + 6] += 1
        made.append(frame)
    return made


def assert_same(found, wanted, tolerance: float = 1e-4) -> None:
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int]], None]:
    """Makes these the levels of all frames behind the first."""

    def these(levels: Sequence[int]) -> None:
        left = iter(levels)
        monkeypatch.setattr(Fallback, "choose", lambda self, foreseen: next(left))
        monkeypatch.setattr(Fallback, "looks", True)

    return these


def test_the_plan_is_cut_twice(model: Model):
    assert model.manifest.stream is not None
    first, second = model.manifest.stream.tails
    assert first.ops < second.ops
    assert set(first.outputs) == {"middle", "map", "scores"} and set(second.outputs) == {"map", "scores"}


def test_what_happened_is_said(model: Model, force):
    order = [3, 2, 1, 1, 2, 3, 0, 1, 3, 3]
    force(order)
    stream, seen = model.stream(), []
    for frame in frames(len(order) + 1):
        result = stream(frame)
        assert_same(result, model.dense(frame))
        seen.append((result.strategies["stream"], stream.reason))
    spans, mixed, dense = ("spans",), ("spans", "dense"), ("dense",)
    resumed = "resumed"
    assert seen == [
        (spans, "first"),
        (spans, ""),
        (mixed, ""),
        (mixed, ""),
        (mixed, ""),
        (mixed, resumed),
        (spans, resumed),
        (dense, "slower"),
        (mixed, resumed),
        (spans, resumed),
        (spans, ""),
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    levels=st.lists(st.integers(0, 3), min_size=1, max_size=10),
    options=st.sampled_from([{}, {"refresh": 3}, {"cut": 0.3}, {"layer_threshold": 1e-7}]),
    jumps=st.sets(st.integers(0, 10)),
)
def test_any_sequence_of_levels_gives_the_dense_answers(model: Model, force, levels, options, jumps):
    force(levels)
    stream = model.stream(**options)
    for i, frame in enumerate(frames(len(levels) + 1)):
        shown = frames(1, seed=i + 1)[0] if i in jumps else frame
        assert_same(stream(shown), model.dense(shown))
        assert 0 <= stream.work <= stream.full_work


def test_less_is_computed_in_front_whatever_is_behind(model: Model, force):
    force([2] * 4)
    stream = model.stream()
    for frame in frames(5):
        stream(frame)
    assert stream.changed is not None and stream.changed.mean() < 0.2
    assert 0.3 * stream.full_work < stream.work < 0.8 * stream.full_work


def test_a_state_is_saved_when_all_of_it_is_current(model: Model, force, tmp_path: Path):
    clip = frames(6)
    force([2, 3, 3, 3, 3, 3])
    stream, other = model.stream(), model.stream()
    stream(clip[0])
    stream(clip[1])
    with pytest.raises(InputError, match="dense engine computed layers"):
        stream.save(tmp_path / "state.npz")
    stream(clip[2])
    stream.save(tmp_path / "state.npz")
    other.load(tmp_path / "state.npz")
    for frame in clip[3:5]:
        assert_same(other(frame), model.dense(frame))
        assert other.reason == ""


def test_resets_resolutions_and_errors_begin_anew_at_any_level(
    model: Model, force, monkeypatch: pytest.MonkeyPatch
):
    force([1, 2, 1, 1, 2, 2])
    stream = model.stream()
    for frame in (*frames(2), *frames(2, size=(40, 32))):
        assert_same(stream(frame), model.dense(frame))
    stream.reset()
    for frame in frames(2, seed=3, size=(40, 32)):
        assert_same(stream(frame), model.dense(frame))
    (failing,) = frames(1, seed=4, size=(40, 32))

    def broken(groups: int):
        raise EngineError("tail", got="a failure", expected="none", fix="none")

    with monkeypatch.context() as patched:
        engines = stream._engines
        patched.setattr(stream, "_engines", type(engines)(**{**vars(engines), "behind": broken}))
        with pytest.raises(EngineError):
            stream(failing)
    assert_same(stream(failing), model.dense(failing))
    assert stream.reason == "first"


def test_a_bundle_from_before_there_were_tails(deep_bundle: Path, tmp_path: Path):
    old = tmp_path / "old"
    shutil.copytree(deep_bundle, old)
    manifest = json.loads((old / "manifest.json").read_text())
    for tail in manifest["stream"].pop("tails"):
        (old / tail["file"]).unlink()
        del manifest["files"][tail["file"]]
    (old / "manifest.json").write_text(json.dumps(manifest))
    with load(old, threads=1) as opened:
        stream = opened.stream()
        for frame in frames(3):
            assert_same(stream(frame), opened.dense(frame))


def test_a_cut_beyond_the_plan_is_refused(deep_bundle: Path, tmp_path: Path):
    bad = tmp_path / "bad"
    shutil.copytree(deep_bundle, bad)
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["stream"]["tails"][1]["ops"] = 1000
    (bad / "manifest.json").write_text(json.dumps(manifest))
    with load(bad, threads=1) as opened:
        stream = opened.stream()
        with pytest.raises(EngineError, match="ops"):
            stream(frames(1)[0])
