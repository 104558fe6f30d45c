"""Bundles: what lies in them, that their parts compute the program, and what happens when a build goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.export.program import load_program, save_program
from foveate.pipeline import build as build_module
from foveate.pipeline import bundle_folder, geometry
from foveate.pipeline.build import build
from foveate.pipeline.check import max_error, open_session
from foveate.pipeline.cli.main import main
from foveate.pipeline.costs import CostModel
from foveate.pipeline.metadata import LABELS
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import BundleError, EngineError, InputError, ProgramError
from foveate.runtime.manifest import DenseSegment, Manifest, Preprocess, Region
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import foveate

SAMPLE = (1, 3, 64, 96)


def manifest_of(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def chain(bundle: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """All steps, densely, one after another."""
    manifest, known = manifest_of(bundle), {"images": images}
    for step in manifest.steps:
        assert isinstance(step, DenseSegment | Region)
        file = step.fallback if isinstance(step, Region) else step.file
        known |= open_session(str(bundle / file))(step.outputs, {t: known[t] for t in step.inputs})
    return known


def segments_of(manifest: Manifest):
    return [s for step in manifest.steps if isinstance(step, Region) for s in step.segments]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_manifest_tells_what_the_runtime_needs(tiny_bundle):
    manifest = manifest_of(tiny_bundle)
    assert [step.kind for step in manifest.steps] == ["dense", "region", "dense"]
    assert [d.name for d in manifest.decisions] == ["mask0"]
    assert {c.name: c.value for c in manifest.choices}["mask0.threshold"] == 0.5
    shapes = {t.name: t.shape for t in (*manifest.inputs, *manifest.tensors, *manifest.outputs)}
    assert shapes["images"] == ("batch", 3, "height", "width")
    assert shapes["mask0.keep"] == ("batch", 1, "height/2", "width/2")
    assert shapes["features"] == ("batch", 16, "height/4", "width/4")
    region = manifest.steps[1]
    assert isinstance(region, Region) and set(region.masks) == {"mask0.keep", "mask0.half"}
    crossing = {t.name for s in region.segments for t in (*s.inputs, *s.outputs)}
    assert crossing <= set(shapes)
    assert manifest.barriers == ("pooled (GlobalAveragePool): pools the whole map",)


def test_every_file_is_hashed_and_weights_stand_once(tiny_bundle, tiny_program):
    manifest = manifest_of(tiny_bundle)
    written = {str(p.relative_to(tiny_bundle)) for p in tiny_bundle.rglob("*") if p.is_file()}
    assert written - {"manifest.json", "device.json"} == set(manifest.files)
    weights = sum(onnx.numpy_helper.to_array(i).nbytes for i in onnx.load(tiny_program).graph.initializer)
    assert (tiny_bundle / "programs/weights.bin").stat().st_size <= weights * 1.1
    for file in (f for f in manifest.files if f.endswith(".onnx")):
        model = onnx.load(tiny_bundle / file, load_external_data=False)
        inline = [i for i in model.graph.initializer if i.data_location != onnx.TensorProto.EXTERNAL]
        assert all(onnx.numpy_helper.to_array(i).nbytes < 1024 for i in inline)
        onnx.checker.check_model(str(tiny_bundle / file))


def test_a_large_program_s_bundle_is_hardly_larger(tmp_path, build_tiny_bundle):
    bundle = build_tiny_bundle(width=96)
    program = bundle.parent / "tiny.onnx"
    total = sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())
    assert total <= 1.1 * program.stat().st_size


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (2, 3, 37, 53), (3, 3, 8, 9)])
def test_the_dense_chain_is_the_program(tiny_bundle, tiny_program, shape):
    images = noise(*shape)
    whole = open_session(str(tiny_program))(["logits", "features"], {"images": images})
    steps = chain(tiny_bundle, images)
    assert max(max_error(steps[name], whole[name]) for name in whole) <= 1e-5


def test_choices_become_defaults_of_every_file(build_tiny_bundle):
    bundle = build_tiny_bundle(choices={"mask0.threshold": 0.75}, active_fraction=0.2)
    manifest = manifest_of(bundle)
    assert {c.name: c.value for c in manifest.choices}["mask0.threshold"] == 0.75
    assert manifest.active_fraction == 0.2
    for file in ("programs/program.onnx", "programs/dense0.onnx"):
        tensors = {i.name: i for i in onnx.load(bundle / file).graph.initializer}
        assert onnx.numpy_helper.to_array(tensors["mask0.threshold"]) == np.float32(0.75)
        inputs = {i.name for i in onnx.load(bundle / file).graph.input}
        assert "mask0.threshold" in inputs


def test_a_bundle_can_be_built_from_its_own_program(tiny_bundle, tmp_path):
    again = build(tiny_bundle / "programs/program.onnx", tmp_path / "again", sample=SAMPLE)
    images = noise(1, 3, 40, 56)
    assert max_error(chain(again, images)["logits"], chain(tiny_bundle, images)["logits"]) <= 1e-5


def test_the_null_target(build_tiny_bundle):
    bundle = build_tiny_bundle(target="null")
    assert manifest_of(bundle).backend == "null"
    with foveate.load(bundle) as model:
        assert model(noise(1, 3, 32, 32))["logits"].shape == (1, 10)


def test_a_program_of_one_resolution(tiny_program, tmp_path):
    """Its head is baked to the size: everything before it is selective, at that size only."""
    model = load_program(tiny_program)
    head = next(n for n in model.graph.node if n.name == "flat")
    head.input[0] = "features"
    weight = np.random.default_rng(0).standard_normal((16 * 16 * 24, 10)).astype(np.float32)
    for tensor in model.graph.initializer:
        if tensor.name == "head.weight":
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, "head.weight"))
    program = save_program(model, tmp_path / "fixed.onnx")
    bundle = build(program, tmp_path / "fixed", sample=SAMPLE)
    manifest = manifest_of(bundle)
    assert "the program runs at the sample's resolution only" in manifest.notes[0]
    assert manifest.inputs[0].shape == ("batch", 3, 64, 96) and manifest.min_size == (64, 96)
    assert [s.kind for s in manifest.steps] == ["dense", "region", "dense"]


def test_an_analysis_that_were_wrong_would_be_found_out(build_tiny_bundle, monkeypatch):
    monkeypatch.setattr(geometry, "_halo", lambda *_: (0, 0))
    bundle = build_tiny_bundle()
    manifest = manifest_of(bundle)
    reasons = " ".join(step.reason for step in manifest.steps if isinstance(step, DenseSegment))
    assert "on a window" in reasons and not any(s.halo_low != (0, 0) for s in segments_of(manifest))


# What goes wrong


def test_an_interrupted_build_leaves_the_old_bundle(build_tiny_bundle, monkeypatch):
    bundle = build_tiny_bundle()
    before = (bundle / "manifest.json").read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "check_chain", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(bundle.parent / "tiny.onnx", bundle, sample=SAMPLE)
    assert (bundle / "manifest.json").read_bytes() == before and manifest_of(bundle)
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["bundle", "tiny.onnx"]


def test_a_build_cut_off_between_its_renames_is_mended(build_tiny_bundle):
    bundle = build_tiny_bundle()
    bundle.rename(bundle.with_name(".bundle.old"))
    build(bundle.parent / "tiny.onnx", bundle, sample=SAMPLE)
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["bundle", "tiny.onnx"]


def test_what_users_put_into_a_bundle_survives_a_build(build_tiny_bundle):
    bundle = build_tiny_bundle()
    (bundle / "report.md").write_text("mine")
    (bundle / "device.json").write_text("{}")
    build(bundle.parent / "tiny.onnx", bundle, sample=SAMPLE)
    assert (bundle / "report.md").read_text() == "mine"
    assert not (bundle / "device.json").exists()  # measured for other segments


def test_a_read_only_folder_is_a_named_error(tiny_program, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bundle_folder.tempfile, "mkdtemp", refuse)
    with pytest.raises(BundleError, match="PermissionError: Permission denied"):
        build(tiny_program, tmp_path / "out", sample=SAMPLE)


def test_a_folder_that_is_no_bundle_is_not_replaced(tiny_program, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_text("dear to somebody")
    with pytest.raises(BundleError, match="expected a bundle, an empty folder or a new name"):
        build(tiny_program, tmp_path / "photos", sample=SAMPLE)
    assert (tmp_path / "photos/holiday.jpg").exists()


def test_wrong_arguments_are_named(tiny_program, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="treshold"):
        build(tiny_program, out, sample=SAMPLE, choices={"mask0.treshold": 0.1})
    with pytest.raises(InputError, match="Did you mean 'cpu'"):
        build(tiny_program, out, sample=SAMPLE, target="cpuu")
    with pytest.raises(InputError, match="sample shape of input 'images'"):
        build(tiny_program, out, sample=(1, 1, 64, 64))
    with pytest.raises(ProgramError):
        build(tmp_path / "missing.onnx", out)
    assert not out.exists()


def test_a_file_that_the_backend_refuses_is_named(tiny_program, tmp_path, monkeypatch):
    def refuse(order, config):
        raise EngineError(f"segment {order.files[0]}", got="x", expected="y", fix="z")

    monkeypatch.setattr(build_module, "build_engines", refuse)
    with pytest.raises(EngineError, match=r"program\.onnx"):
        build(tiny_program, tmp_path / "out", sample=SAMPLE)


def test_an_edited_file_is_found_on_load(build_tiny_bundle):
    bundle = build_tiny_bundle()
    facts = json.loads((bundle / "manifest.json").read_text())
    assert all(len(entry["sha256"]) == 64 for entry in facts["files"].values())
    with (bundle / "programs/weights.bin").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(BundleError, match=r"weights\.bin"):
        open_bundle(bundle)


def test_the_sample_comes_from_the_preprocessing(tiny_program, tmp_path):
    bundle = build(tiny_program, tmp_path / "out", preprocess=Preprocess(size=(48, 80)))
    assert manifest_of(bundle).sample == {"images": [1, 3, 48, 80]}


@pytest.mark.parametrize("strided", [False, True])
def test_costs_are_measured_whatever_the_sizes(random_program, masked_image, tmp_path, strided):
    """An output of height − 2, and one of 2 · ⌈height ÷ 2⌉, which no dim of the manifest can say."""
    model = random_program(lambda _: 2, 0)
    helper, conv = onnx.helper, next(n for n in model.graph.node if n.op_type == "Conv")
    del conv.attribute[:]
    if strided:
        final = model.graph.node.pop()
        scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
        model.graph.initializer.append(scales)
        conv.attribute.extend(
            helper.make_attribute(k, v) for k, v in {"strides": [2, 2], "pads": [1] * 4}.items()
        )
        up = helper.make_node("Resize", [conv.output[0], "", "scales"], ["up"], name="up", mode="linear")
        final.input[0] = "up"
        model.graph.node.extend([up, final])
    bundle = build(save_program(model, tmp_path / "p.onnx"), tmp_path / "b", sample=(1, 4, 32, 32))
    manifest = manifest_of(bundle)
    height = manifest.outputs[0].shape[2]
    assert manifest.sizes.get("y.2") == 32 and height == "y.2" if strided else height == "(height-2)"
    image = masked_image(np.eye(31, 37) > 0)
    with foveate.load(bundle) as runner:
        assert set(runner.measure().regions) == {"region0"}
        assert max_error(runner(image)["y"], runner.dense(image)["y"]) <= 1e-5


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 100))
def test_a_bundle_run_selectively_answers_as_its_program(
    data, seed, random_program, masked_image, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("random")
    program = save_program(random_program(data.draw, data.draw(st.integers(2, 8))), folder / "random.onnx")
    bundle = build(program, folder / "bundle", sample=(1, 4, 24, 24), model=CostModel(call_ms=0.0))
    rng = np.random.default_rng(seed)
    with foveate.load(bundle, strategy="rects") as model:
        for height, width in ((17, 22), (31, 12)):
            mask = rng.random((height, width)) < rng.choice([0.0, 0.02, 0.2, 1.0])
            image = masked_image(mask, seed)
            got, expected = model(image)["y"], model.dense(image)["y"]
            assert np.abs(got - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    shutil.rmtree(folder)


@pytest.mark.parametrize("selective", ["rects", "spans"])
def test_whole_cells(random_program, masked_image, tmp_path, selective):
    """auto_pad with a stride pads by the size's remainder: exact on windows where there is none, dense elsewhere."""
    model = random_program(lambda _: 2, 0)
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    del conv.attribute[:]
    conv.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    conv.attribute.append(onnx.helper.make_attribute("strides", [2, 2]))
    bundle = build(save_program(model, tmp_path / "same.onnx"), tmp_path / "same", sample=(1, 4, 32, 32))
    (segment,) = segments_of(manifest_of(bundle))
    assert segment.whole_cells and segment.halo_high == (1, 1)
    with foveate.load(bundle, strategy=selective) as runner:
        for size, strategy in (((32, 48), selective), ((33, 48), "dense")):
            mask = np.zeros(size, bool)
            mask[20:24, 9:13] = True
            image = masked_image(mask)
            result = runner(image)
            assert result.strategies["region0"] == (strategy,)
            assert max_error(result["y"], runner.dense(image)["y"]) <= 1e-5


def test_the_sample_comes_from_the_export(tiny_program, tmp_path):
    model = onnx.load(tiny_program)
    onnx.helper.set_model_props(model, {"foveate.sample": json.dumps({"images": [2, 3, 40, 72]})})
    onnx.save(model, tmp_path / "tiny.onnx")
    bundle = build(tmp_path / "tiny.onnx", tmp_path / "out")
    assert manifest_of(bundle).sample == {"images": [2, 3, 40, 72]}


def test_maps_with_channels_last(random_program, masked_image, tmp_path):
    """A network in NHWC behind its mask: the tensors that cross segments hold height and width on axes 1 and 2."""
    model = random_program(lambda _: 2, 0)
    helper = onnx.helper
    weights = {
        name: np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32) for name in ("m0", "m1")
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "ones"))
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    model.graph.node[-1].input[0] = "last"
    inner = [
        helper.make_node("Transpose", ["mask0.keep"], ["keep"], name="keep", perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", [conv.output[0]], ["first"], name="first", perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["first", "ones"], ["normed"], name="normed", axis=-1),
        helper.make_node("MatMul", ["normed", "m0"], ["hidden"], name="hidden"),
        helper.make_node("Mul", ["hidden", "keep"], ["masked"], name="masked_last"),
        helper.make_node("MatMul", ["masked", "m1"], ["mixed"], name="mixed"),
        helper.make_node("Softmax", ["mixed"], ["last"], name="last", axis=-1),
    ]
    final = model.graph.node.pop()
    model.graph.node.extend([*inner, final])
    program = save_program(model, tmp_path / "last.onnx")
    bundle = build(program, tmp_path / "last", sample=(1, 4, 24, 40), model=CostModel(call_ms=0.0))
    crossing = {t.name: t.axes for s in segments_of(manifest_of(bundle)) for t in s.outputs}
    assert (1, 2) in crossing.values()
    with foveate.load(bundle, strategy="rects") as runner:
        mask = np.random.default_rng(0).random((27, 33)) < 0.1
        result = runner(masked_image(mask))
        assert max_error(result["y"], runner.dense(masked_image(mask))["y"]) <= 1e-5


def test_the_classes_are_called_as_the_program_says(make_program, tmp_path):
    """A bundle that is built anew keeps the names."""
    program = make_program(masks=0)
    model = onnx.load(program)
    model.metadata_props.add(key=LABELS, value=json.dumps(["road", "sky"]))
    onnx.save(model, program)
    bundle = tmp_path / "bundle"
    assert main(["build", str(program), "--out", str(bundle)]) == 0
    assert open_bundle(bundle).manifest.labels == ("road", "sky")
    assert main(["build", str(bundle)]) == 0
    assert open_bundle(bundle).manifest.labels == ("road", "sky")
    assert open_bundle(build(program, bundle, labels=["a"])).manifest.labels == ("a",)
