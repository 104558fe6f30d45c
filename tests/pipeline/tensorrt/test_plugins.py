"""Engines with Foveate's plugins, built for real by TensorRT-RTX: the library is the one whose kernels are emulated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from foveate.export.ops import deformable_sample
from foveate.pipeline.build import build
from foveate.pipeline.tensorrt import bundle_engines
from foveate.pipeline.tensorrt.engine_build import build_plan
from foveate.pipeline.tensorrt.engine_cache import EngineCache
from foveate.pipeline.tensorrt.engine_model import EngineModels
from foveate.pipeline.tensorrt.profiles import Profile
from foveate.runtime.cuda import library
from foveate.runtime.cuda.plugins import load_plugins
from foveate.runtime.errors import EngineError

from ...conftest import TINY_SAMPLE, make_tiny_program
from ...deformable import one_node
from ...early_exits import exit_program

IMAGES = {"images": ((1, 3, 32, 32), (1, 3, 64, 96), (4, 3, 128, 192))}


@pytest.fixture
def plugins(emulated_cuda, rtx, monkeypatch) -> Iterator[tuple[str, ...]]:
    """As if the installation had built the library so."""
    opened = library.open_library(emulated_cuda)
    monkeypatch.setattr(library, "library", lambda: opened)
    monkeypatch.setattr(library, "path", lambda: emulated_cuda)
    monkeypatch.setattr(bundle_engines, "load_plugins", load_plugins)
    load_plugins.cache_clear()
    yield load_plugins(rtx.module)
    load_plugins.cache_clear()


def layers_of(model: Path, profile, rtx, folder: Path, precision: str, plugins=()):
    """Of the engine of a program: kind and types of those that are plugins; and the ops of the file it is built of."""
    program = onnx.load(model)
    written = EngineModels(program, precision, plugins).write(model, folder)
    built = build_plan(written.path, (profile,), "sm89", rtx)
    graph = onnx.load(written.path, load_external_data=False).graph
    return written.plugins, {s.name: s.dtypes for s in built.layers if s.kind == "PLUGIN_V3"}, graph.node


@pytest.mark.parametrize(
    ("precision", "kinds"),
    [("fp32", ("FLOAT",) * 3), ("fp16", ("HALF", "FLOAT", "FLOAT")), ("bf16", ("FLOAT",) * 3)],
)
def test_a_mask_is_a_plugin_that_takes_what_the_engine_has(tmp_path, rtx, plugins, precision, kinds):
    program = make_tiny_program(tmp_path / "tiny.onnx")
    (tmp_path / "model").mkdir()
    used, layers, nodes = layers_of(program, IMAGES, rtx, tmp_path / "model", precision, plugins)
    assert used == ("EnergyMask 1",) and layers == {"mask0": kinds}
    mask = next(n for n in nodes if n.op_type == "EnergyMask")
    assert list(mask.input[3:]) == [
        f"mask0.{name}" for name in ("threshold", "temperature", "lambda", "gamma")
    ]
    casts = [n for n in nodes if n.op_type == "Cast" and n.input[0].startswith("mask0.keep")]
    assert bool(casts) == (precision == "bf16")  # behind it the engine goes on in the type that it has


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_deformable_sampling_is_a_plugin(tmp_path, rtx, plugins, precision):
    model = one_node(2)
    model.functions.append(deformable_sample.body(model.graph.node))
    # In fp16 a product makes the values, and the locations stay what they are.
    weights = onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, [16, 16], [0.1] * 256)
    model.graph.initializer.append(weights)
    model.graph.node[0].input[0] = "scaled"
    model.graph.node.insert(
        0, onnx.helper.make_node("MatMul", ["value", "scale"], ["scaled"], name="scaling")
    )
    onnx.save(model, tmp_path / "sample.onnx")
    dims = {"value": (20, 4, 16), "locations": (7, 4, 2, 3, 2), "weights": (7, 4, 2, 3)}
    profile: Profile = {name: ((1, *d), (1, *d), (4, *d)) for name, d in dims.items()}
    profile["sizes"] = (2, 2), (2, 2), (2, 2)
    (tmp_path / "model").mkdir()
    used, layers, nodes = layers_of(
        tmp_path / "sample.onnx", profile, rtx, tmp_path / "model", precision, plugins
    )
    assert used == ("DeformableSample 1",)
    assert list(layers.values()) == [("HALF" if precision == "fp16" else "FLOAT",)]
    node = next(n for n in nodes if n.op_type == "DeformableSample")
    assert node.input[2] == "locations"


def test_layers_of_a_transformer_sample_by_plugin(tmp_path, rtx, plugins):
    """All of them, also where an exit may skip one; at locations of float32."""
    program = exit_program(tmp_path / "exits.onnx", sampled=True)
    images = {"images": ((1, 3, 16, 16), (2, 3, 32, 32), (4, 3, 64, 64))}
    (tmp_path / "model").mkdir()
    used, layers, nodes = layers_of(program, images, rtx, tmp_path / "model", "fp16", plugins)
    samples = [n for n in nodes if n.op_type == "DeformableSample"]
    assert used == ("DeformableSample 1",) and len(layers) == len(samples) > 1
    assert set(layers.values()) <= {("HALF",), ("FLOAT",)}
    assert not any(n.input[2].endswith(".fp16") for n in samples)


def test_a_bundle_says_which_plugins_its_engines_need(tmp_path, plugins, emulated_cuda, monkeypatch):
    program, told = make_tiny_program(tmp_path / "tiny.onnx"), []

    def make(name: str) -> list[str]:
        told.clear()
        bundle = build(program, tmp_path / name, sample=TINY_SAMPLE, target="tensorrt@sm89", tell=told.append)
        needed = [json.loads(path.read_text())["plugins"] for path in sorted(bundle.glob("engines/*.json"))]
        return [plugin for plugins in needed for plugin in plugins]

    assert set(make("first")) == {"EnergyMask 1"}
    keys = [entry.key for entry in EngineCache().entries() if entry.key and entry.key.plugins]
    assert keys and all(key.plugins[0].startswith("EnergyMask 1 ") for key in keys)
    make("again")
    assert all("hit" in line for line in told)

    other = tmp_path / "libfoveate_cuda.so.1"  # of another build, to judge by its hash
    other.write_bytes(emulated_cuda.read_bytes() + b"\0")
    monkeypatch.setattr(library, "path", lambda: other)
    make("other")
    assert any("miss: plugins EnergyMask 1" in line for line in told)


def test_a_library_that_tensorrt_refuses_is_named(plugins):
    """TensorRT-RTX says nothing, and gives none."""
    registry = SimpleNamespace(all_creators=[], load_library=lambda path: None)
    trt = SimpleNamespace(__name__="tensorrt", __version__="11.0", get_plugin_registry=lambda: registry)
    with pytest.raises(EngineError, match=r"expected a library that tensorrt 11\.0 takes") as caught:
        load_plugins.__wrapped__(trt)
    assert "FOVEATE_CUDA=0" in caught.value.fix


def test_without_a_library_bodies_are_built(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "library", lambda: None)
    monkeypatch.setattr(bundle_engines, "load_plugins", load_plugins.__wrapped__)
    program = make_tiny_program(tmp_path / "tiny.onnx")
    bundle = build(program, tmp_path / "bundle", sample=TINY_SAMPLE, target="tensorrt@sm89")
    sidecars = [json.loads(path.read_text()) for path in bundle.glob("engines/*.json")]
    assert sidecars and not any(sidecar["plugins"] for sidecar in sidecars)
    assert not any(layer["kind"] == "PLUGIN_V3" for sidecar in sidecars for layer in sidecar["layers"])
