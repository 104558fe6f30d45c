"""Where native kernels run most of a region, it is cut at the ops that they do not know."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.export.program import save_program
from foveate.pipeline.build import build
from foveate.pipeline.costs import CostModel
from foveate.pipeline.inspect import inspect, lines
from foveate.runtime.bundle import open_bundle
from foveate.runtime.manifest import Region
from foveate.runtime.spans import native_regions
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

import foveate

SLOW = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a program is built for each example: shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SCATTERED = CostModel(call_ms=10.0, objects=10)  # what is called for each object on its own is dear
FOREIGN = ("Sin", "LRN", "Softsign")


@SLOW
@given(data=st.data(), op=st.sampled_from(FOREIGN), seed=st.integers(0, 99))
def test_every_strategy_answers_as_the_dense_program(
    random_program, masked_image, tmp_path_factory, data, op, seed
):
    folder = tmp_path_factory.mktemp("cut")
    model = random_program(data.draw, data.draw(st.integers(2, 7)), foreign=op)
    bundle = build(
        save_program(model, folder / "p.onnx"), folder / "b", sample=(1, 4, 24, 24), model=SCATTERED
    )
    rng = np.random.default_rng(seed)
    images = [
        masked_image(rng.random(size) < rng.choice([0.0, 0.02, 0.2, 1.0]), seed)
        for size in ((17, 22), (31, 13))
    ]
    manifest = open_bundle(bundle).manifest
    native = len(native_regions(manifest))
    event(f"{native} of {sum(isinstance(s, Region) for s in manifest.steps)} regions native")
    for strategy in ("spans", "rects", "auto")[not native :]:
        with foveate.load(bundle, strategy=strategy, threads=1) as runner:
            for image in images:
                got, expected = runner(image)["y"], runner.dense(image)["y"]
                assert np.abs(got - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    shutil.rmtree(folder)


@pytest.fixture
def with_op(make_program, tmp_path):
    """`with_op("Sin")`: the program that make_program makes, with another op for relu0."""

    def make(op: str, masks: int = 1) -> Path:
        model = onnx.load(make_program(masks))
        node = next(n for n in model.graph.node if n.name == "relu0")
        node.op_type = op
        return save_program(model, tmp_path / f"{op}.onnx")

    return make


def test_native_regions_before_and_behind(with_op, tmp_path):
    facts = inspect(build(with_op("Sin"), tmp_path / "b", model=SCATTERED))
    assert [s["kind"] for s in facts["steps"]] == ["dense", "region", "dense", "region", "dense"]
    assert all(s["native"] for s in facts["steps"] if s["kind"] == "region")
    assert facts["steps"][2]["reason"] == "relu0 (Sin) has no native kernel: cut there"
    assert any("relu0 (Sin) has no native kernel" in line for line in lines(facts))


def test_a_gpu_has_no_native_kernels_to_cut_for(with_op, tmp_path):
    facts = inspect(build(with_op("Sin"), tmp_path / "b", target="cuda"))
    assert [s["kind"] for s in facts["steps"]] == ["dense", "region", "dense"]
    assert len(facts["steps"][1]["segments"]) == 1


def test_a_cut_that_does_not_pay_is_not_made(with_op):
    """With 8 channels, the op on the whole map costs about what a convolution on the active part does."""
    facts = inspect(with_op("Sin"))
    assert [s["kind"] for s in facts["steps"]] == ["dense", "region", "dense"]
    assert facts["steps"][1]["native_refused"] == "relu0 (Sin) has no native kernel"


def test_what_the_kernels_know_is_not_cut(with_op):
    assert [s["kind"] for s in inspect(with_op("Softplus"))["steps"]] == ["dense", "region", "dense"]


def test_a_stream_ends_at_what_the_kernels_do_not_know(with_op):
    """Of stem, 3 → 8 channels, conv0 and conv1, 8 → 8, the last lies behind the op."""
    facts = inspect(with_op("Sin", masks=0))
    assert facts["stream"]["share"] == pytest.approx(11 / 19, rel=0.01)
    assert facts["stream"]["ends"] == ("relu0 (Sin) has no native kernel",)
    (line,) = (line for line in lines(facts) if line.startswith("stream"))
    assert line.endswith("of the work; 42.1% lie behind: relu0 (Sin) has no native kernel")
