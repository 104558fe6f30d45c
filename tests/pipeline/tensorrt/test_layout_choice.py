"""Which layout gets engines: by how many calls it takes, and what mixed depths cost it."""

from __future__ import annotations

import dataclasses

import pytest
from foveate.pipeline.build import build
from foveate.pipeline.tensorrt.layout_choice import CALL_MS, MACS_PER_MS, choose_engines, predict
from foveate.runtime.bundle import open_bundle
from foveate.runtime.manifest import ExitChain, Manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from ...early_exits import EXITS, exit_program


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("layouts")
    program = exit_program(folder / "exits.onnx")
    return open_bundle(build(program, folder / "bundle", sample=(1, 3, 32, 32), layout="chain")).manifest


def with_work(manifest: Manifest, macs: float, depths: dict[str, int] | None = None) -> Manifest:
    """Each stage of so many multiply-adds."""
    steps = tuple(
        dataclasses.replace(step, stages=tuple(dataclasses.replace(s, macs=macs) for s in step.stages))
        if isinstance(step, ExitChain)
        else step
        for step in manifest.steps
    )
    return dataclasses.replace(manifest, steps=steps, depths=depths or {})


def test_one_call_wins_where_layers_are_small_and_the_chain_where_they_are_not(manifest):
    assert choose_engines(with_work(manifest, 1e6), "fp16", 1)[0] != "chain"
    name, why = choose_engines(with_work(manifest, 1e11), "fp16", 1)
    assert name == "chain" and "layout chain: ms behind the stem" in why and "per-depth" in why


def test_images_of_one_depth_take_the_same_work_in_every_layout(manifest):
    deep = with_work(manifest, 1e9, {str(EXITS[-1]): 5})
    ms = predict(deep, "fp32", 4)
    work = 4 * 2 * 1e9 / MACS_PER_MS["fp32"]
    assert ms == pytest.approx(
        {"chain": work + 3 * CALL_MS, "per-depth": work + CALL_MS, "if": work + 2 * CALL_MS}
    )
    shallow = with_work(manifest, 1e9, {str(EXITS[0]): 5})
    assert predict(shallow, "fp32", 4) == pytest.approx(
        {"chain": CALL_MS, "per-depth": CALL_MS, "if": 2 * CALL_MS}
    )


@settings(deadline=None)
@given(st.floats(1e3, 1e12), st.integers(1, 64), st.lists(st.integers(0, 50), min_size=3, max_size=3))
def test_laws_of_the_prediction(manifest, macs, batch, counts):
    depths = {str(exit): count for exit, count in zip(EXITS, counts, strict=True)}
    ms = predict(with_work(manifest, macs, depths), "fp16", batch)
    more = predict(with_work(manifest, 2 * macs, depths), "fp16", batch)
    assert all(0 < ms[name] <= more[name] <= 2 * ms[name] for name in ms)
    # A batch that runs as deep as its deepest image computes no less than one that images leave.
    assert ms["if"] - 2 * CALL_MS >= ms["chain"] - 3 * CALL_MS - 1e-9
