"""Programs that take multiples of 32 alone, and images of any size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline.build import build
from foveate.pipeline.inspect import inspect, lines
from foveate.runtime import Batching, load
from foveate.runtime.errors import FoveateError, InputError, ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st

SAMPLE = (1, 3, 64, 96)


def write(path: Path, height: str = "32*h32", width: str = "32*w32", **metadata: object) -> Path:
    """Maps of strides 4 and 32 that meet: it runs at multiples of 32 alone. Outputs: masks at stride 4, edges one less
    than the image, tokens at stride 32 and classes."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 18]>
        strides (float[batch, 3, height, width] images)
            => (float[batch, 2, a, b] masks, float[batch, 1, c, d] edges, float[batch, n, 2] tokens,
                float[batch, 2] classes) {
          fine = Conv <kernel_shape = [4, 4], strides = [4, 4]> (images, w4)
          coarse = Conv <kernel_shape = [8, 8], strides = [8, 8]> (fine, w32)
          up = Resize <mode = "nearest"> (coarse, none, scales)
          masks = Add (fine, up)
          edges = Conv <kernel_shape = [2, 2]> (images, w2)
          rows = Reshape (coarse, flat)
          tokens = Transpose <perm = [0, 2, 1]> (rows)
          classes = ReduceMean <keepdims = 0> (coarse, middle)
        }"""
    )
    rng = np.random.default_rng(0)
    arrays = {
        "w4": rng.standard_normal((2, 3, 4, 4)).astype(np.float32),
        "w32": rng.standard_normal((2, 2, 8, 8)).astype(np.float32) / 8,
        "w2": rng.standard_normal((1, 3, 2, 2)).astype(np.float32),
        "none": np.empty(0, np.float32),
        "scales": np.array([1, 1, 8, 8], np.float32),
        "flat": np.array([0, 0, -1]),
        "middle": np.array([2, 3]),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = height, width
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("padding")
    return build(write(folder / "strides.onnx"), folder / "bundle", sample=SAMPLE)


def image(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).random((batch, 3, height, width), np.float32)


def test_declared_sizes_are_known(bundle: Path, tmp_path: Path):
    facts = inspect(bundle)
    assert facts["multiple"] == [32, 32] and facts["min_size"] == [32, 32]
    assert "sizes      multiples of 32×32 from 32×32 on" in "\n".join(lines(facts))
    shapes = {spec["name"]: tuple(spec["shape"]) for spec in facts["outputs"]}
    assert shapes["masks"] == ("batch", 2, "height/4", "width/4")
    assert shapes["edges"] == ("batch", 1, "(height-1)", "(width-1)")
    told = {"foveate.sizes": {"multiple": 32, "least": 64}}
    other = build(write(tmp_path / "told.onnx", "height", "width", **told), tmp_path / "told", sample=SAMPLE)
    assert inspect(other)["multiple"] == [32, 32] and inspect(other)["min_size"] == [64, 64]


def test_an_export_of_torch_declares_them(tmp_path: Path):
    torch = pytest.importorskip("torch")

    class Half(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.avg_pool2d(images, 8) * 2

    sizes = {2: 8 * torch.export.Dim("h8", min=2), 3: 8 * torch.export.Dim("w8", min=2)}
    program = torch.export.export(Half(), (torch.ones(1, 3, 32, 48),), dynamic_shapes=(sizes,))
    torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False).save(tmp_path / "half.onnx")
    built = build(tmp_path / "half.onnx", tmp_path / "half", sample=(1, 3, 32, 48))
    with load(built, threads=1, pad=True) as model:
        assert model.manifest.multiple == (8, 8)
        (output,) = model(image(30, 41)).values()
        assert output.shape == (1, 3, 4, 6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 3))
def test_padded_and_cropped(bundle: Path, height: int, width: int, batch: int):
    given = image(height, width, batch)
    high, wide = -(-height // 32) * 32, -(-width // 32) * 32
    whole = np.zeros((batch, 3, high, wide), np.float32)
    whole[:, :, :height, :width] = given
    with load(bundle, threads=1, pad=True, verify=False) as model:
        found, dense, wanted = model(given), model.dense(given), model(whole)
        by_one = [model.submit(given[i : i + 1]).result(30) for i in range(batch)]
    kept = {
        "masks": wanted["masks"][:, :, : -(-height // 4), : -(-width // 4)],
        "edges": wanted["edges"][:, :, : height - 1, : width - 1],
        "tokens": wanted["tokens"],
        "classes": wanted["classes"],
    }
    for name, value in kept.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(dense[name], value, rtol=1e-5, atol=1e-5)
        one = np.concatenate([result[name] for result in by_one])
        np.testing.assert_allclose(one, value, rtol=1e-5, atol=1e-5)
        assert found[name].flags.c_contiguous


def test_images_of_several_sizes_share_a_batch_where_they_are_padded_alike(bundle: Path):
    with load(bundle, threads=1, pad=True, batching=Batching(max_batch=2, max_delay_ms=1e9)) as model:
        futures = [model.submit(image(60, 90)), model.submit(image(33, 65))]
        shapes = [future.result(30)["masks"].shape for future in futures]
    assert shapes == [(1, 2, 15, 23), (1, 2, 9, 17)]


def test_frames_of_a_stream(bundle: Path):
    with load(bundle, threads=1, pad=True) as model:
        stream = model.stream()
        for seed in range(3):
            frame = image(50, 70) + np.float32(seed)
            found, wanted = stream(frame), model(frame)
            for name in wanted:
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_uint8_images(bundle: Path):
    with load(bundle, threads=1, pad=True) as model:
        assert model(np.zeros((33, 50, 3), np.uint8))["masks"].shape == (1, 2, 9, 13)


@pytest.mark.parametrize(("size", "fitting"), [((100, 64), "128×64"), ((64, 65), "64×96"), ((8, 8), "32×32")])
def test_without_the_option_the_size_to_pass_is_told(bundle: Path, size: tuple[int, int], fitting: str):
    with load(bundle, threads=1) as model:
        with pytest.raises(
            InputError, match=rf"at least 32×32, multiples of 32×32.*\n.*Pass {fitting}, .*pad=True"
        ):
            model(image(*size))
        assert model(image(64, 32))["masks"].shape == (1, 2, 16, 8)


def test_an_empty_image_and_a_wrong_rank_are_refused_all_the_same(bundle: Path):
    with load(bundle, threads=1, pad=True) as model:
        for bad in (image(0, 40), image(32, 32)[0], image(32, 32, batch=0)):
            with pytest.raises(InputError):
                model(bad)


def test_a_program_of_any_size_pads_to_its_least_one(handmade: Path, make_image: Callable[..., np.ndarray]):
    with load(handmade, threads=1, pad=True) as model:
        assert model(make_image(np.ones((5, 20), bool)))["d"].shape == (1, 8, 3, 10)


@pytest.mark.parametrize("declared", [{"multiple": 0}, {"multiple": "many"}, [32], {"least": -1}])
def test_sizes_that_are_none(tmp_path: Path, declared: object):
    path = write(tmp_path / "odd.onnx", "height", "width", **{"foveate.sizes": declared})
    with pytest.raises(ProgramError, match=r"foveate\.sizes"):
        build(path, tmp_path / "bundle", sample=SAMPLE)


def test_a_sample_of_another_size_is_refused(tmp_path: Path):
    with pytest.raises(FoveateError, match=r"sample's height: got 60; expected a multiple of 32"):
        build(write(tmp_path / "strides.onnx"), tmp_path / "bundle", sample=(1, 3, 60, 96))
