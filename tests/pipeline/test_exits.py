"""Encoders with exits: cut at them, run from exit to exit, and the same answer as the whole program's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from foveate.pipeline.build import build
from foveate.pipeline.inspect import inspect, lines
from foveate.runtime import Model, load
from foveate.runtime.bundle import dense_files, open_bundle
from foveate.runtime.costs import parse_costs
from foveate.runtime.errors import DecisionError, InputError
from foveate.runtime.layouts import choose_layout
from foveate.runtime.manifest import ExitChain, Manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..early_exits import EXITS, exit_program

SAMPLE = (2, 3, 32, 48)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    return build(exit_program(folder / "exits.onnx"), folder / "bundle", sample=SAMPLE)


@pytest.fixture(scope="module")
def model(bundle: Path):
    with load(bundle, threads=1, layout="chain") as opened:
        yield opened


@pytest.fixture(scope="module")
def layouts(bundle: Path, model: Model):
    """The bundle in each."""
    with load(bundle, threads=1, layout="per-depth") as paths, load(bundle, threads=1, layout="if") as graph:
        yield {"chain": model, "per-depth": paths, "if": graph}


def chain_of(manifest: Manifest) -> ExitChain | None:
    return next((step for step in manifest.steps if isinstance(step, ExitChain)), None)


def images(batch: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> np.ndarray:
    """Noise, of a contrast between 0.1 and 10."""
    rng = np.random.default_rng(seed)
    contrast = 10 ** rng.uniform(-1, 1, (batch, 1, 1, 1))
    return (contrast * rng.standard_normal((batch, 3, *size))).astype(np.float32)


def assert_dense(model: Model, batch: np.ndarray) -> np.ndarray:
    """The depths."""
    found, wanted = model(batch), model.dense(batch)
    np.testing.assert_array_equal(found["depth"], wanted["depth"])
    np.testing.assert_allclose(found["classes"], wanted["classes"], rtol=1e-5, atol=1e-5)
    assert found.depth is not None
    np.testing.assert_array_equal(found.depth, found["depth"])
    return found.depth


def test_a_program_is_cut_at_its_exits(model: Model):
    manifest = model.manifest
    assert [step.kind for step in manifest.steps] == ["dense", "exits", "dense"]
    chain = chain_of(manifest)
    assert chain is not None and chain.exits == EXITS
    assert chain.stages[1].macs == pytest.approx(2 * chain.stages[0].macs)
    assert manifest.notes == ()


@settings(max_examples=25, deadline=None)
@given(
    layout=st.sampled_from(["chain", "per-depth", "if"]),
    batch=st.integers(1, 9),
    size=st.tuples(st.sampled_from([8, 16, 40]), st.sampled_from([8, 32])),
    offset=st.sampled_from([(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 99), (5, 5, 0), (0, 2, 2)]),
    seed=st.integers(0, 99),
)
def test_any_batch_has_the_dense_answer(layouts: dict[str, Model], layout, batch, size, offset, seed):
    model = layouts[layout]
    model.set_choices({"gate0.offset": [float(v) for v in offset]})
    assert_dense(model, images(batch, size, seed))


@pytest.mark.parametrize("layout", ["chain", "per-depth", "if"])
def test_engines_for_one_size_have_the_answer_of_those_for_all(bundle: Path, layout: str):
    """Behind `warmup`; images of other sizes, and batches, take the engines that there were."""
    with load(bundle, threads=1, layout=layout) as warm:
        warm.warmup((1, 3, 32, 48))
        assert_dense(warm, images(1))
        engines, step = warm.executor.engines, warm.manifest.steps[0]
        (file,) = dense_files(step)
        assert engines.at(file, ((1, 3, 32, 48),)) is not engines[file]
        assert engines.at(file, ((1, 3, 40, 32),)) is engines[file]
        for batch, size in ((3, (32, 48)), (1, (40, 32)), (2, (16, 8))):
            assert_dense(warm, images(batch, size))


def test_images_leave_early(model: Model):
    """A stage runs on the images that are still there, and not at all where there are none."""
    model.set_choices({"gate0.offset": [0.0, 0.0, 0.0]})
    assert set(assert_dense(model, images(32))) == set(EXITS)
    for at, depth in enumerate(EXITS):
        model.set_choices({"gate0.offset": [1e6 if i == at else 0.0 for i in range(len(EXITS))]})
        result = model(images(3))
        assert result.depth is not None and result.depth.tolist() == [depth] * 3
        ran = [name for name in result.segments if name.startswith("exits.")]
        assert ran == [f"exits.{exit}" for exit in EXITS[1:] if exit <= depth]


def test_one_image_has_the_answer_that_it_has_in_a_batch(model: Model):
    model.set_choices({"gate0.offset": [0.0, 0.0, 0.0]})
    batch = images(8, seed=3)
    together = model(batch)
    for i in range(len(batch)):
        alone = model(batch[i : i + 1])
        np.testing.assert_allclose(alone["classes"][0], together["classes"][i], rtol=1e-5, atol=1e-5)
        assert alone["depth"][0] == together["depth"][i]


@pytest.mark.parametrize("layout", ["chain", "per-depth", "if"])
def test_scores_that_are_not_finite_are_refused(layouts: dict[str, Model], layout: str):
    model, huge = layouts[layout], images(3)
    huge[1] *= 3e38 / np.abs(huge[1]).max()
    with pytest.raises(DecisionError, match="image 1"):
        model(huge)


def test_a_gate_of_another_size_is_refused(model: Model):
    with pytest.raises(InputError, match="3 finite numbers"):
        model.set_choices({"gate0.offset": [1.0, 2.0]})


def test_behind_a_masked_backbone(tmp_path: Path):
    """The mask's region runs selectively, and what follows it from exit to exit."""
    bundle = build(exit_program(tmp_path / "both.onnx", mask=True), tmp_path / "bundle", sample=SAMPLE)
    with load(bundle, threads=1, strategy="spans") as model:
        assert [step.kind for step in model.manifest.steps] == ["dense", "region", "dense", "exits", "dense"]
        batch = images(12)
        assert len(set(assert_dense(model, batch))) > 1
        assert set(model(batch).strategies["region0"]) == {"spans"}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of deformable attention."""
    folder = tmp_path_factory.mktemp("sampled")
    return build(exit_program(folder / "program.onnx", sampled=True), folder / "bundle", sample=SAMPLE)


def _count_samples(graph: onnx.GraphProto) -> int:
    inner = sum(_count_samples(a.g) for node in graph.node for a in node.attribute)
    return inner + sum(node.op_type == "DeformableSample" for node in graph.node)


def test_engines_keep_what_a_native_kernel_runs(sampled: Path):
    """With the body by which others run it."""
    manifest = read_manifest(sampled)
    counts = {}
    for layout in ("chain", "per-depth", "if"):
        files = [file for step in manifest.in_layout(layout).steps for file in dense_files(step)]
        models = [onnx.load(sampled / file, load_external_data=False) for file in files]
        counts[layout] = [_count_samples(model.graph) for model in models]
        assert all(len(model.functions) == bool(_count_samples(model.graph)) for model in models)
    assert counts == {"chain": [1, 1, 2, 0], "per-depth": [1, 0, 1, 3], "if": [4]}
    assert "4 nodes read maps" in "\n".join(lines(inspect(sampled)))


@pytest.mark.parametrize("layout", ["chain", "per-depth", "if"])
@pytest.mark.parametrize("native", [True, False])
def test_deformable_layers_have_the_programs_answer(sampled: Path, layout: str, native: bool, monkeypatch):
    """At every depth and another size, with the kernel and without the library."""
    session = onnxruntime.InferenceSession(sampled / "programs/program.onnx")
    if not native:
        monkeypatch.setattr("foveate.runtime.backends.ort.library", lambda: None)
    batch = images(3, (40, 24))
    with load(sampled, threads=1, layout=layout) as model:
        for number, depth in enumerate(EXITS):
            offset = [1e6 * (number == n) for n in range(len(EXITS))]
            model.set_choices({"gate0.offset": offset})
            feeds = {"images": batch, "gate0.offset": np.array(offset, np.float32)}
            wanted = np.asarray(session.run(["classes"], feeds)[0])
            for found in (model(batch), model.dense(batch)):
                assert set(found["depth"]) == {depth}
                np.testing.assert_allclose(found["classes"], wanted, rtol=1e-5, atol=1e-5)
        model.set_choices({"gate0.offset": [0.0] * len(EXITS)})
        assert_dense(model, images(6))


def test_layers_that_something_else_reads_are_all_computed(tmp_path: Path):
    bundle = build(exit_program(tmp_path / "peek.onnx", peek=True), tmp_path / "bundle", sample=SAMPLE)
    with load(bundle, threads=1) as model:
        assert chain_of(model.manifest) is None
        assert any("all layers are computed" in note for note in model.manifest.notes)
        batch = images(4)
        np.testing.assert_allclose(model(batch)["classes"], model.dense(batch)["classes"], rtol=1e-5)


def test_a_single_image_may_be_all_that_a_program_takes(tmp_path: Path):
    bundle = build(exit_program(tmp_path / "one.onnx", batch=1), tmp_path / "bundle", sample=(1, *SAMPLE[1:]))
    with load(bundle, threads=1) as model:
        assert chain_of(model.manifest) is not None
        assert_dense(model, images(1))


def test_a_layout_is_measured_and_loaded(bundle: Path):
    """By what device.json says, unless it is told."""
    known = parse_costs((bundle / "device.json").read_text()).layouts
    assert set(known) == {"chain", "per-depth", "if"} and min(known.values()) > 0
    with load(bundle) as opened:
        assert opened.layout == choose_layout(read_manifest(bundle), "auto", known)
    with load(bundle, layout="if") as opened:
        assert opened.layout == "if" and [step.kind for step in opened.manifest.steps] == ["if"]
    with pytest.raises(InputError, match="layout"):
        load(bundle, layout="none")


def test_a_layout_may_be_built_for(tmp_path: Path):
    program = exit_program(tmp_path / "exits.onnx")
    built = build(program, tmp_path / "bundle", sample=SAMPLE, layout="per-depth")
    assert not (built / "device.json").exists()
    with load(built, threads=1) as opened:
        assert opened.layout == "per-depth"
        ran = opened(images(1))
        assert ran.depth is not None and list(ran.segments) == ["dense0", f"exits.{ran.depth[0]}"]
    with pytest.raises(InputError, match="layout"):
        build(program, tmp_path / "other", sample=SAMPLE, layout="none")


def test_weights_stand_once_in_every_layout(bundle: Path):
    manifest = read_manifest(bundle)
    for layout in ("per-depth", "if"):
        files = [file for step in manifest.layouts[layout] for file in dense_files(step)]
        assert sum(manifest.files[file].bytes for file in files) < 200_000
        for file in files:
            graph = onnx.load(bundle / file, load_external_data=False).graph
            inner = [a.g for node in graph.node for a in node.attribute if a.g.node]
            assert not any(g.initializer for g in inner)


def read_manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def test_inspect_shows_exits_and_what_they_cost(model: Model):
    facts = inspect(model.path)
    step = next(s for s in facts["steps"] if s["kind"] == "exits")
    assert [stage["exit"] for stage in step["stages"]] == list(EXITS[1:])
    shown = "\n".join(lines(facts))
    assert "images leave behind 1, 2, 4 layers" in shown and "to 4 layers" in shown
    assert "gate0.weight = 18 numbers" in shown
    assert "layout     auto of chain" in shown and facts["layouts"] == ["chain", "per-depth", "if"]


def test_what_the_gate_reads_is_told(model: Model):
    result = model(images(3))
    assert result.features is not None and result.features.shape == (3, 6)
    weight = np.array(model.choices["gate0.weight"]).reshape(3, 6)
    scores = result.features @ weight.T + model.choices["gate0.bias"] + model.choices["gate0.offset"]
    np.testing.assert_array_equal(np.array(EXITS)[scores.argmax(1)], result["depth"])
