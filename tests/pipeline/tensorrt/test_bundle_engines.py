"""Bundles built for TensorRT: real engines of every file that a step runs, and what a machine without a GPU does."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.export.program import load_program, save_program
from foveate.pipeline.build import build
from foveate.pipeline.cli import main
from foveate.pipeline.inspect import inspect
from foveate.pipeline.inspect import lines as inspected
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import BackendWarning, BundleError, InputError
from foveate.runtime.layouts import choose_layout, layouts_for
from foveate.runtime.manifest import Manifest, Region

from foveate import load

from ...early_exits import exit_program

SMALL = {"batch": (1, 1, 4), "height": (32, 64, 96), "width": (32, 96, 96)}
ROOT = Path(__file__).parents[3]


def quiet_load(bundle: Path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendWarning)
        return load(bundle, **options)


@pytest.fixture
def built(tiny_program, tmp_path) -> Path:
    return build(
        tiny_program, tmp_path / "bundle", sample=(1, 3, 64, 96), target="tensorrt:fp16@sm89", ranges=SMALL
    )


def test_every_file_that_a_step_runs_has_an_engine_and_a_sidecar(built):
    manifest = open_bundle(built).manifest  # checks sizes and sha256 of all of them
    region = next(step for step in manifest.steps if isinstance(step, Region))
    files = {
        "whole",
        "dense0",
        "dense1",
        Path(region.fallback).stem,
        *(Path(s.file).stem for s in region.segments),
    }
    assert {engine.plan for engine in manifest.engines} == {f"engines/{stem}.sm89.plan" for stem in files}
    for engine in manifest.engines:
        facts = json.loads((built / engine.sidecar).read_text())
        assert facts["bytes"] == (built / engine.plan).stat().st_size == manifest.files[engine.plan].bytes > 0
        assert facts["name"] == Path(engine.program).name and facts["layers"] and facts["seconds"] > 0
        names = {t.name for t in onnx.load(built / engine.program, load_external_data=False).graph.input}
        assert {t["name"] for t in facts["inputs"]} == names  # choices among them, so that they can change
        assert (engine.flavour, engine.compute, engine.precision) == ("tensorrt_rtx", "sm89", "fp16")
    assert manifest.backend == "tensorrt" and Manifest.from_json(manifest.to_json()) == manifest


def test_a_second_build_takes_all_engines_from_the_cache(built, tiny_program, tmp_path):
    told: list[str] = []
    options = {"sample": (1, 3, 64, 96), "ranges": SMALL, "tell": told.append}
    again = build(tiny_program, tmp_path / "again", target="tensorrt:fp16@sm89", **options)
    assert told and all(": hit: " in line for line in told)
    one, two = open_bundle(built).manifest, open_bundle(again).manifest
    assert {n: e for n, e in one.files.items() if n.endswith(".plan")} == {
        n: e for n, e in two.files.items() if n.endswith(".plan")
    }
    told.clear()
    build(tiny_program, tmp_path / "again", target="tensorrt:fp16@sm120", **options)
    assert all(line.endswith("miss: compute sm89 -> sm120") for line in told)


def test_without_such_a_gpu_onnxruntime_answers_and_it_is_said_once(
    built, tiny_program, tmp_path, monkeypatch
):
    monkeypatch.setattr("foveate.runtime.nvidia.compute_capability", lambda: "")
    plain = build(tiny_program, tmp_path / "plain", sample=(1, 3, 64, 96))
    image = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    for strategy in ("dense", "spans", "rects"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = load(built, strategy=strategy)
            found = model(image)
        assert [w.category for w in caught] == [BackendWarning] and caught[0].filename == __file__
        assert "runs on onnxruntime, not on TensorRT: this machine has no NVIDIA GPU" in str(
            caught[0].message
        )
        with model, load(plain, strategy=strategy) as other:
            assert model.backend == "ort" and other.backend == "ort"
            expected = other(image)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("gpu", "version", "said"),
    [
        ("sm120", "", "built for sm89, this GPU is sm120"),
        ("sm89", "1.0", "here is 1.0"),
        ("sm89", "", "CUDA kernels are missing"),
    ],
)
def test_why_engines_cannot_run_here_is_said(built, monkeypatch, gpu, version, said):
    import tensorrt_rtx

    monkeypatch.setattr("foveate.runtime.nvidia.compute_capability", lambda: gpu)
    monkeypatch.setattr(
        "foveate.runtime.device.cuda.why_missing", lambda: "Foveate's CUDA kernels are missing"
    )
    monkeypatch.setattr(tensorrt_rtx, "__version__", version or tensorrt_rtx.__version__)
    with pytest.warns(BackendWarning, match=said):
        load(built).close()


def test_a_bundle_without_engines_that_is_to_run_on_tensorrt_says_so(tiny_bundle):
    with pytest.warns(BackendWarning, match="built without such engines"):
        load(tiny_bundle, backend="tensorrt").close()


def test_engines_are_files_of_the_bundle_like_all_others(built, tiny_program):
    plan = built / "engines/whole.sm89.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(BundleError, match=r"whole\.sm89\.plan"):
        open_bundle(built)
    build(tiny_program, built, sample=(1, 3, 64, 96))  # a build for another target leaves none behind
    assert not (built / "engines").exists() and open_bundle(built).manifest.engines == ()


def test_a_bundle_of_an_earlier_version_loads(tiny_bundle, tmp_path):
    facts = json.loads((tiny_bundle / "manifest.json").read_text())
    assert facts.pop("engines") == []
    assert Manifest.from_json(json.dumps(facts)).engines == ()


@pytest.mark.parametrize(
    ("layout", "precision", "stages"),
    [
        ("chain", "fp32", {"dense0", "exits2", "exits4", "dense1"}),
        ("per-depth", "fp32", {"dense0", "depth1", "depth2", "depth4"}),
        ("if", "bf16", {"exits", "dense0", "region0", "region0.0"}),
    ],
)
def test_every_layout_of_exits_has_its_engines(tmp_path, layout, precision, stages):
    ranges = {"batch": (1, 2, 4), "height": (16, 32, 64), "width": (16, 32, 64)}
    program = exit_program(tmp_path / "exits.onnx", mask=precision == "bf16")
    target = f"tensorrt:{precision}"
    bundle = build(
        program, tmp_path / "bundle", sample=(1, 3, 32, 32), target=target, ranges=ranges, layout=layout
    )
    manifest = open_bundle(bundle).manifest
    stems = {Path(engine.program).stem for engine in manifest.engines}
    assert stems == {"whole", *stages}
    assert {engine.compute for engine in manifest.engines} == {"any"}
    last = max(stage for stage in stages if not stage.startswith(("dense", "region")))
    facts = json.loads((bundle / f"engines/{last}.any.json").read_text())
    tokens = {name: [shape[1] for shape in shapes] for name, shapes in facts["profiles"][0].items()}
    assert layout == "if" or [4, 16, 64] in tokens.values()  # patches of 8 × 8
    kinds = [layer["kind"] for layer in facts["layers"]]
    assert kinds.count("CONDITION") == 2 * (layout == "if")  # one engine, that skips what no image takes
    assert layouts_for(manifest, "tensorrt") == (layout,)
    assert layouts_for(manifest, "ort") == ("chain", "per-depth", "if")


def test_where_no_layout_is_asked_for_one_is_built_and_it_is_said_why(tmp_path):
    ranges = {"batch": (1, 1, 4), "height": (32, 32, 32), "width": (32, 32, 32)}
    program, out = exit_program(tmp_path / "exits.onnx"), tmp_path / "bundle"
    manifest = open_bundle(
        build(program, out, sample=(1, 3, 32, 32), target="tensorrt", ranges=ranges)
    ).manifest
    (built,) = layouts_for(manifest, "tensorrt")
    assert manifest.layout == "auto" and choose_layout(manifest, None, {}, "tensorrt") == built
    (note,) = [note for note in manifest.notes if "engines are built for layout" in note]
    assert (
        f"layout {built}:" in note and "--exit-layout" in note and note in "\n".join(inspected(inspect(out)))
    )
    with pytest.raises(InputError, match=rf"'if'(.|\n)*one of auto, {built}"):
        choose_layout(manifest, "if", {}, "tensorrt")


def test_deformable_attention_is_read_by_gather(tmp_path):
    """Not by GridSample, which TensorRT may get wrong, and at locations of float32."""
    ranges = {"batch": (1, 2, 4), "height": (16, 32, 64), "width": (16, 32, 64)}
    program = exit_program(tmp_path / "exits.onnx", sampled=True)
    target, sample = "tensorrt:fp16", (1, 3, 32, 32)
    build(program, tmp_path / "bundle", sample=sample, target=target, ranges=ranges, layout="per-depth")
    for name in ("whole", "depth4"):
        layers = json.loads((tmp_path / f"bundle/engines/{name}.any.json").read_text())["layers"]
        kinds = {layer["kind"] for layer in layers}
        assert "GATHER" in kinds and "GRID_SAMPLE" not in kinds
        placed = [
            layer for layer in layers if layer["name"].endswith("MatMul_x4") or "node_of_x0" in layer["name"]
        ]
        assert len(placed) > 1 and all(layer["dtypes"] == ["FLOAT"] for layer in placed)


def test_a_network_for_streams_has_engines_for_its_frames(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]>\n'
        "g (float[batch, 3, height, width] images) => (float[batch, 8, h, w] y) {\n"
        "a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (images, w0)\n r = Relu (a)\n"
        "b = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (r, w1)\n s = Relu (b)\n"
        "m = GlobalAveragePool (s)\n y = Mul (s, m) }"
    )
    rng = np.random.default_rng(0)
    weights = {"w0": rng.normal(size=(8, 3, 3, 3)), "w1": rng.normal(size=(8, 8, 3, 3))}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()
    )
    onnx.save(model, tmp_path / "conv.onnx")
    program = save_program(load_program(tmp_path / "conv.onnx"), tmp_path / "conv.onnx")
    bundle = build(program, tmp_path / "bundle", sample=(1, 3, 64, 64), target="tensorrt")
    manifest = open_bundle(bundle).manifest
    assert manifest.stream is not None and manifest.engines
    frame = np.random.default_rng(1).random((1, 3, 64, 64), np.float32)
    with quiet_load(bundle) as opened:
        assert np.allclose(opened.stream()(frame)["y"], opened.dense(frame)["y"], rtol=1e-4, atol=1e-4)


def test_engines_of_the_trained_example_are_built(tmp_path):
    """The ERSM network of the demo, in float16, for two GPUs."""
    import torch
    from foveate.export import export_program, load_checkpoint

    network = load_checkpoint(ROOT / "examples/ersm/masked.safetensors")
    program = export_program(network, torch.zeros(1, 3, 128, 128), tmp_path / "ersm.onnx")
    target, ranges = "tensorrt:fp16@sm89,sm120", {"height": (64, 128, 256), "width": (64, 128, 256)}
    manifest = open_bundle(build(program, tmp_path / "bundle", target=target, ranges=ranges)).manifest
    computes = [engine.compute for engine in manifest.engines]
    assert computes.count("sm89") == computes.count("sm120") >= 6


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_engines_of_the_mask2former_example_are_built_at_every_depth(tmp_path):
    program, out = tmp_path / "eco.onnx", tmp_path / "bundle"
    assert main(["export", str(ROOT / "examples/eco_m2f/parent"), "--out", str(program)]) == 0
    for layout, stages in {
        "if": {"exits"},
        "chain": {f"exits{n}" for n in range(3, 7)},
        "per-depth": {f"depth{n}" for n in range(2, 7)},
    }.items():
        build(program, out, sample=(1, 3, 128, 128), target="tensorrt:fp16", layout=layout)
        stems = {Path(engine.program).stem for engine in open_bundle(out).manifest.engines}
        assert stems >= {"whole", *stages}


def test_inspect_lists_the_engines(built):
    facts = inspect(built)
    whole = next(engine for engine in facts["engines"] if engine["plan"].startswith("engines/whole"))
    assert whole["profiles"][0]["images"] == [[1, 3, 32, 32], [1, 3, 64, 96], [4, 3, 96, 96]]
    text = "\n".join(inspected(facts))
    assert "whole.sm89.plan: tensorrt_rtx" in text and "images 1×3×32×32 … 1×3×64×96 … 4×3×96×96" in text


@pytest.mark.parametrize(
    ("target", "said"), [("tensorrt:fp16@sm90", "H100 or H200"), ("tensorrt:int8", "Quantize it first")]
)
def test_targets_that_cannot_be_built_are_named(tiny_program, tmp_path, target, said):
    with pytest.raises(InputError, match=said):
        build(tiny_program, tmp_path / "out", sample=(1, 3, 64, 96), target=target)
    assert not (tmp_path / "out").exists()


def test_a_profile_that_the_program_does_not_take_is_named(tmp_path):
    program = exit_program(tmp_path / "exits.onnx")
    with pytest.raises(InputError, match="profile of 'width'"):
        ranges = {"width": (1, 32, 64)}
        build(program, tmp_path / "out", sample=(1, 3, 32, 32), target="tensorrt", ranges=ranges)


def test_the_commands(tiny_program, tmp_path, capsys):
    out, cache = tmp_path / "out", ["cache", "ls", "--json"]
    build_it = [
        "build",
        str(tiny_program),
        "--sample",
        "1x3x64x96",
        "--out",
        str(out),
        "--target",
        "tensorrt",
    ]
    assert main([*build_it, "--profile", "batch=1:2:4,height=64,width=64:96:96"]) == 0
    assert "miss: no engine of this ONNX file" in capsys.readouterr().err
    assert main(cache) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    whole = max(engines, key=lambda engine: engine["layers"])
    assert "images [1, 3, 64, 64] [2, 3, 64, 96] [4, 3, 64, 96]" in whole["key"]["profiles"]
    assert main(["cache", "show", whole["name"][:12]]) == 0
    assert "precision  fp32" in capsys.readouterr().out
    assert main(["cache", "verify"]) == 0
    with Path(whole["path"]).open("r+b") as plan:
        plan.write(b"\xff\xff")
    assert main(["cache", "verify"]) == 1
    assert whole["name"][:12] in capsys.readouterr().out
    assert main(["cache", "prune"]) == 0  # what is of this TensorRT stays
    assert main(["cache", "ls"]) == 0 and "tensorrt_rtx" in capsys.readouterr().out
    assert main(["cache", "prune", "--limit", "0"]) == 0  # nor does what was just taken go
    assert main(["cache", "ls"]) == 0 and "tensorrt_rtx" in capsys.readouterr().out
    for engine in engines:
        if Path(engine["path"]).is_file():
            os.utime(engine["path"], (0, 0))
    assert main(["cache", "prune", "--limit", "0"]) == 0
    assert main(["cache", "ls"]) == 0 and "no engine in" in capsys.readouterr().out
    assert main(["cache", "prune", "--all"]) == 0
    assert main(["cache", "ls"]) == 0 and "no engine in" in capsys.readouterr().out


def test_a_command_says_once_that_another_backend_answers(built, capsys, monkeypatch):
    monkeypatch.setattr("foveate.runtime.nvidia.compute_capability", lambda: "")
    assert main(["verify", str(built)]) == 0
    said = capsys.readouterr().err
    assert said.count("note: 'bundle' runs on onnxruntime, not on TensorRT") == 1 and "Warning" not in said


@pytest.mark.parametrize("profile", ["batch", "batch=1:2", "batch=a:b:c", "=1:2:3", "batch=0"])
def test_profiles_that_are_none_are_a_usage_error(profile, tiny_program, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["build", str(tiny_program), "--target", "tensorrt", "--profile", profile])
    assert caught.value.code == 2 and "DIM=LEAST:OPT:MOST" in capsys.readouterr().err
