from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from foveate.pipeline.inspect import inspect, lines
from foveate.runtime.errors import BundleError, ProgramError
from foveate.runtime.manifest import Region


def test_a_bundle_and_its_program_are_cut_alike(make_program, tmp_path):
    from foveate.pipeline.build import build

    program = make_program(masks=2)
    of_program, of_bundle = inspect(program), inspect(build(program, tmp_path / "bundle"))
    for key in ("inputs", "outputs", "decisions", "steps", "macs", "dense_share", "barriers"):
        assert of_program[key] == of_bundle[key], key
    assert of_bundle["bytes"] > 0 and of_program["kind"] == "program"
    json.dumps(of_bundle)


def test_work_is_that_of_the_graph(make_program):
    """stem 3 → 8 and two convs 8 → 8, 3 × 3, at 224 × 224; the head is 8 × 4."""
    facts = inspect(make_program())
    positions = 224 * 224
    stem, body = 8 * 3 * 9 * positions, 8 * 8 * 9 * positions
    local = sum(step["macs"] for step in facts["steps"] if step["kind"] == "region")
    assert local == pytest.approx(2 * body)
    assert facts["macs"] == pytest.approx(stem + 2 * body, rel=0.02)  # and the mask's own few
    assert facts["dense_share"] == pytest.approx(1 - local / facts["macs"])


def test_halos_and_barriers_are_shown(tiny_bundle):
    from foveate.runtime.bundle import open_bundle

    facts = inspect(tiny_bundle)
    region = next(step for step in facts["steps"] if step["kind"] == "region")
    manifest = open_bundle(tiny_bundle).manifest
    segments = next(step for step in manifest.steps if isinstance(step, Region)).segments
    assert [s["halo"] for s in region["segments"]] == [
        [list(s.halo_low), list(s.halo_high)] for s in segments
    ]
    assert any("GlobalAveragePool" in line for line in lines(facts) if line.startswith("barrier"))


def test_a_program_without_decisions_says_so(make_program):
    facts = inspect(make_program(masks=0))
    assert facts["dense_share"] == 1.0 and facts["notes"]
    assert facts["stream"]["share"] > 0.99  # all but the head
    assert any(line.startswith("stream     saves at most 9") or "100.0%" in line for line in lines(facts))


def test_what_runs_natively_is_said(make_program, tmp_path):
    facts = inspect(make_program())
    region = next(step for step in facts["steps"] if step["kind"] == "region")
    assert region["native"] and not region["native_refused"]
    shown = lines(facts)
    assert any("run by native kernels" in line for line in shown)
    assert any(line.startswith("stream     none: its decisions") for line in shown)


def test_neither_program_nor_bundle(tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ProgramError):
        inspect(tmp_path / "text.onnx")
    with pytest.raises(ProgramError):
        inspect(tmp_path / "missing.onnx")
    with pytest.raises(BundleError):
        inspect(tmp_path)


def test_a_signal_is_no_image(tmp_path):
    """One free axis that is called height is not enough for a map."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(n, kind, ["batch", 3, "height"]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")], "signal", values[:1], values[1:]
    )
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(program, tmp_path / "signal.onnx")
    assert [step["kind"] for step in inspect(tmp_path / "signal.onnx")["steps"]] == ["dense"]


def test_the_memory_of_a_stream_is_said(make_program, tmp_path):
    """It is what the runtime holds against max_state_bytes."""
    from foveate.pipeline.build import build
    from foveate.runtime import load
    from foveate.runtime.errors import InputError

    program = make_program(masks=0)
    bundle = build(program, tmp_path / "bundle")
    facts = inspect(bundle)
    assert facts["stream_bytes"] == inspect(program)["stream_bytes"] > 2**20
    assert any(
        line.startswith(f"memory     {facts['stream_bytes'] / 2**20:.1f} MiB") for line in lines(facts)
    )
    frame = np.zeros(next(iter(facts["sample"].values())), np.float32)
    with load(bundle, max_state_bytes=facts["stream_bytes"]) as model:
        model.stream()(frame)
    with (
        load(bundle, max_state_bytes=facts["stream_bytes"] - 1) as model,
        pytest.raises(InputError, match="max_state_bytes"),
    ):
        model.stream()(frame)


def test_without_native_kernels_it_is_not_known(make_program, monkeypatch):
    monkeypatch.setattr("foveate.pipeline.stream_bytes.library", lambda: None)
    facts = inspect(make_program(masks=0))
    assert facts["stream_bytes"] is None and not any(line.startswith("memory") for line in lines(facts))
