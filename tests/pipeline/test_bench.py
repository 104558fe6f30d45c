"""Bench end to end on the tiny bundle: the result follows the schema and its figures fit together. No times are
asserted: the machine is shared."""

from __future__ import annotations

import json

import numpy as np
import pytest
from foveate.pipeline.bench import bench
from foveate.pipeline.build import build
from foveate.pipeline.contenders import open_contenders
from foveate.pipeline.data import open_data
from foveate.pipeline.dense import CANDIDATES, Dense, tune
from foveate.pipeline.environment import describe, git_revision
from foveate.pipeline.ideal import WorkMeter, mean_work
from foveate.pipeline.report import write_report
from foveate.pipeline.report_schema import check_report
from foveate.pipeline.statistics import efficiency, realization
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import EngineError, InputError, ProgramError
from foveate.runtime.manifest import ExitChain

from ..early_exits import EXITS, exit_program

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "d.npz"
    images = random.normal(size=(5, 3, 64, 96)).astype(np.float32)
    np.savez(path, images=images, labels=random.integers(0, 10, 5))
    return open_data(path)


@pytest.fixture(scope="module")
def baseline(tiny_program, tmp_path_factory):
    """The same network without masks: every product with a mask tensor is its other factor."""
    model = onnx.load(tiny_program)
    keep = []
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Mul" and node.input[1].startswith("mask0."):
            renamed[node.output[0]] = node.input[0]
        elif not node.output[0].startswith("mask0."):
            keep.append(node)
    keep.append(onnx.helper.make_node("Identity", [renamed["features"]], ["features"]))
    del model.graph.node[:]
    model.graph.node.extend(keep)
    used = {name for node in keep for name in node.input}
    weights = [w for w in model.graph.initializer if w.name in used]
    del model.graph.initializer[:], model.functions[:], model.graph.input[1:]
    model.graph.initializer.extend(weights)
    path = tmp_path_factory.mktemp("baseline") / "plain.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def result(tiny_bundle, data, baseline):
    ticks: list[None] = []
    found = bench(
        tiny_bundle,
        data,
        baseline=baseline,
        images=3,
        rounds=2,
        threads=1,
        tick=lambda: ticks.append(None),
    )
    assert len(ticks) > 50
    return found


def test_the_result_follows_the_schema_and_makes_a_report(result, tmp_path):
    check_report(result)
    assert result == json.loads(json.dumps(result, allow_nan=False))
    assert write_report(result, tmp_path).read_text().count("<svg") == 3


def test_headline_figures_follow_from_the_times(result):
    dense, adaptive, share = result["dense_ms"], result["adaptive_ms"], result["work"]["ideal_share"]
    assert result["speedup"] == pytest.approx(dense / adaptive)
    assert result["speedup_interval"][0] <= result["speedup"] <= result["speedup_interval"][1]
    assert result["ideal_speedup"] == pytest.approx(1 / share)
    assert result["realization"] == pytest.approx(realization(dense, adaptive, share))
    assert result["efficiency"] == pytest.approx(efficiency(dense, adaptive, share))
    assert result["latency"]["adaptive"]["n"] == 6
    assert result["latency"]["adaptive"]["p90_ms"] == "n too small"


def test_the_waterfall_adds_up(result):
    parts = {part["part"]: part["ms"] for part in result["waterfall"]}
    assert sum(parts.values()) == pytest.approx(result["adaptive_ms"], rel=0.02)
    assert sum(result["strategies"].values()) == pytest.approx(1)


def test_the_sweep_reaches_the_fractions_and_its_ideal_falls(result):
    points = result["sweep"]
    assert [p["target"] for p in points][:: len(points) - 1] == [0, 1]
    assert all(abs(p["active_fraction"] - p["target"]) < 0.02 for p in points)
    ideal = [p["ideal_speedup"] for p in points]
    assert ideal == sorted(ideal, reverse=True) and ideal[-1] == pytest.approx(1)
    assert points[-1]["realization"] is None
    assert 0 <= result["break_even"] <= 1


def test_the_worst_case_is_measured_by_itself_with_an_interval(result):
    worst = result["worst_case"]
    low, high = worst["ratio_interval"]
    assert low <= worst["ratio"] <= high
    assert worst["ratio"] == pytest.approx(worst["adaptive_ms"] / worst["masked_dense_ms"])


def test_accuracy_and_parity_are_those_of_the_program(result, data, baseline, tiny_program):
    def top1(path):
        dense = Dense(path, 1)
        return np.mean([dense(image)["logits"].argmax() == label for image, label in data])

    accuracy = result["accuracy"]
    assert (accuracy["metric"], accuracy["images"]) == ("top1", 5)
    assert accuracy["dense"] == pytest.approx(top1(baseline))
    assert accuracy["masked_dense"] == accuracy["adaptive"] == pytest.approx(top1(tiny_program))
    assert result["parity"]["passed"] and result["parity"]["images"] == 5
    assert result["parity"]["decision_agreement"] == 1


def test_the_tradeoff_covers_thresholds_in_order(result):
    points = result["tradeoff"]
    active = [p["active_fraction"] for p in points]
    assert active == sorted(active, reverse=True) and active[0] > 0.8 and active[-1] < 0.1


def test_files_and_settings_are_named(result, tiny_bundle):
    files = result["environment"]["files"]
    assert (
        files["programs/program.onnx"]
        == open_bundle(tiny_bundle).manifest.files["programs/program.onnx"].sha256
    )
    assert "baseline plain.onnx" in files and "data d.npz" in files
    assert result["baseline"]["kind"] == "unmasked" and "shape" in result["baseline"]["settings"]
    assert len(result["overlays"]) == 3


def test_without_a_baseline_the_masked_program_is_it_and_a_note_says_so(tiny_bundle, data):
    found = bench(tiny_bundle, data, images=1, rounds=1, threads=1, limit=1)
    assert found["baseline"]["kind"] == "masked program"
    assert found["dense_ms"] == found["masked_dense_ms"]
    assert any("flatters" in note for note in found["notes"])


def test_a_baseline_that_answers_something_else_is_refused(tiny_bundle, data, tmp_path):
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"baseline .*other\.onnx"):
        bench(tiny_bundle, data, baseline=tmp_path / "other.onnx", images=1, rounds=1, threads=1)


def test_an_engine_that_cannot_be_opened_names_its_file(tmp_path):
    with pytest.raises(ProgramError, match=r"gone\.onnx"):
        Dense(tmp_path / "gone.onnx", 1)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        Dense(tmp_path / "broken.onnx", 1)


def test_tuning_gives_an_engine_of_equal_answers(tiny_program, data):
    image, _ = next(iter(data))
    plain = Dense(tiny_program, 1)(image)
    tuned = tune(tiny_program, 1, image)
    assert tuned.settings in CANDIDATES
    assert all(np.allclose(plain[name], value, atol=1e-5) for name, value in tuned(image).items())
    assert not tune(tiny_program, 1, image, static=False).settings.static


def test_work_is_dense_where_all_is_active_and_falls_with_the_mask(tiny_bundle, data):
    manifest = open_bundle(tiny_bundle).manifest
    meter = WorkMeter(tiny_bundle / manifest.program, manifest, 1)
    image, _ = next(iter(data))
    full = meter(image, {"mask0.threshold": -1.0})
    none = meter(image, {"mask0.threshold": 1.0})
    assert full.share == pytest.approx(1) and full.active_macs == pytest.approx(full.dense_macs)
    assert 0 < none.share < 0.5 and none.dense == full.dense
    assert mean_work([full, none]).share == pytest.approx((1 + none.share) / 2)
    assert 0.1 < meter.balance < 1000


def test_work_ends_behind_the_exit_that_an_image_takes(tmp_path):
    bundle = build(exit_program(tmp_path / "exits.onnx"), tmp_path / "bundle", sample=(1, 3, 32, 48))
    manifest = open_bundle(bundle).manifest
    chain = next(step for step in manifest.steps if isinstance(step, ExitChain))
    meter, image = WorkMeter(bundle / manifest.program, manifest, 1), np.ones((1, 3, 32, 48), np.float32)
    whole = meter(image, {}, EXITS[-1])
    assert whole.share == pytest.approx(1) and whole == meter(image, {})
    for depth in EXITS:
        skipped = sum(stage.macs for stage in chain.stages if stage.exit > depth)
        assert meter(image, {}, depth).active_macs == pytest.approx(whole.dense_macs - skipped)
        assert (meter(image, {}, depth).share < 1) == (depth != EXITS[-1])


def test_the_environment_names_machine_versions_and_revision(tmp_path):
    facts = describe(2, {"a": "0"}, "ort")
    assert facts["cpu"] and facts["threads"] == 2 and {"numpy", "onnxruntime"} <= facts["versions"].keys()
    (tmp_path / "foreign.py").write_text("")
    assert git_revision(tmp_path / "foreign.py") is None


def test_only_timed_results_are_recorded(tiny_bundle, data):
    images = [image for image, _ in data][:2]
    results = []
    with open_contenders(tiny_bundle, None, 1, images) as contenders:
        contenders.time(("adaptive",), images, 3, lambda: None, record=results.append)
        assert len(results) == 6
        before = contenders.auto
        contenders.use({**contenders.reference.choices, "mask0.threshold": 0.25})
        contenders.renew()
        assert contenders.auto is not before and contenders.auto.choices["mask0.threshold"] == 0.25
