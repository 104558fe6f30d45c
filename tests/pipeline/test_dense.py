"""The dense engines that everything is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline.dense import Dense, tune

from ..early_exits import exit_program


def old_program(path: Path) -> Path:
    """As exporters wrote them before IR version 4: every weight is an input, too."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    image = helper.make_tensor_value_info("images", kind, ["batch", 3, "height", "width"])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["map"], pads=[1] * 4)],
        "old",
        [image, helper.make_tensor_value_info("w", kind, weights.shape)],
        [helper.make_tensor_value_info("map", kind, ["batch", 1, "height", "width"])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3), path)
    return path


def test_weights_that_are_inputs_are_frozen(tmp_path: Path):
    """The file is not changed, and a value given for one is no choice."""
    program = old_program(tmp_path / "old.onnx")
    before, image = program.read_bytes(), np.ones((1, 3, 5, 6), np.float32)
    dense = Dense(program, threads=1)
    assert dense(image)["map"][0, 0, 2, 2] == np.arange(27).sum()
    assert dense(image, {"w": np.zeros((1, 3, 3, 3))})["map"][0, 0, 2, 2] == np.arange(27).sum()
    assert program.read_bytes() == before


def test_tuning_takes_one_of_the_candidates(tmp_path: Path):
    program, image = old_program(tmp_path / "old.onnx"), np.ones((1, 3, 5, 6), np.float32)
    dense = tune(program, 1, image, rounds=2)
    np.testing.assert_array_equal(dense(image)["map"], Dense(program, 1)(image)["map"])
    assert not tune(program, 1, image, static=False, rounds=2).settings.static


def test_native_kernels_run_what_they_know_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program, image = exit_program(tmp_path / "exits.onnx", sampled=True), np.ones((1, 3, 16, 24), np.float32)
    stock, tuned = Dense(program, 1), tune(program, 1, image, rounds=2)
    assert (stock.settings.kernels, tuned.settings.kernels) == (False, True)
    assert "native kernels" in tuned.settings.words()
    np.testing.assert_allclose(tuned(image)["classes"], stock(image)["classes"], rtol=1e-5, atol=1e-5)
    assert not tune(program, 1, image, rounds=2, kernels=False).settings.kernels
    plain = exit_program(tmp_path / "plain.onnx")
    assert not tune(plain, 1, image, rounds=2).settings.kernels
    monkeypatch.setattr("foveate.pipeline.dense.library", lambda: None)
    assert not tune(program, 1, image, rounds=2).settings.kernels
