"""A whole bundle by backend `tensorrt`, on an emulated GPU. Its plans are names of the programs that they were built
from, which onnxruntime runs in their place: all else is what engines of TensorRT get."""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from foveate.runtime import TensorRTConfig, load, nvidia
from foveate.runtime.costs import DeviceCosts, SegmentCost
from foveate.runtime.cuda import library as kernel_library
from foveate.runtime.device import cuda, replay
from foveate.runtime.device.driver import Driver
from foveate.runtime.manifest import EngineFile, FileEntry, Manifest, TensorSpec
from foveate.runtime.tensorrt import plan as plan_module
from foveate.runtime.tensorrt.flavour import RTX, Flavour

from ..device.cuda.conftest import Kernels
from ..device.cuda.fake_driver import FakeLibrary
from .fake_tensorrt import FakeTensorRT, Network, Port

MakeImage = Callable[..., np.ndarray]
_MOST, _BATCH = 64, 2  # of every open dim, and of the first
_SEGMENTS = {name: SegmentCost(0.01, 1e-3) for name in "abcd"}
COSTS = DeviceCosts({}, (1, 4, 64, 64), _SEGMENTS, {"region0": 1e3}, 0.3, guesses=_SEGMENTS)


def network_of(program: Path) -> Network:
    """What TensorRT would make of it: choices are inputs as others are."""
    graph = onnx.load(program, load_external_data=False).graph
    session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]

    def port(value) -> Port:
        open_dims = (_BATCH, *(_MOST for _ in value.shape[1:]))
        least = tuple(d if isinstance(d, int) else 1 for d in value.shape)
        most = tuple(d if isinstance(d, int) else n for d, n in zip(value.shape, open_dims, strict=False))
        return Port({"tensor(float)": "FLOAT", "tensor(int64)": "INT64"}[value.type], (least, least, most))

    def compute(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))

    names, ports = [o.name for o in graph.output], {value.name: port(value) for value in inputs}

    @functools.cache
    def shape_of(given: tuple[tuple[int, ...], ...]) -> dict[str, tuple[int, ...]]:
        dtype = {"FLOAT": np.float32, "INT64": np.int64}
        shapes = zip(ports.items(), given, strict=True)
        made = compute({name: np.zeros(shape, dtype[port.dtype]) for (name, port), shape in shapes})
        return {name: value.shape for name, value in made.items()}

    def shape(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return shape_of(tuple(shapes[name] for name in ports))

    return Network(ports, {o.name: port(o) for o in session.get_outputs()}, shape, compute)


@pytest.fixture
def bundle(handmade: Path, tmp_path: Path) -> Path:
    """The handmade one with a plan for each program."""
    path = tmp_path / "bundle"
    shutil.copytree(handmade, path)
    manifest = Manifest.from_json((path / "manifest.json").read_text())
    engines, files = [], dict(manifest.files)
    (path / "engines").mkdir()
    for program in sorted(name for name in manifest.files if name.endswith(".onnx")):
        stem = f"engines/{Path(program).stem}.any"
        digest = hashlib.sha256(program.encode()).hexdigest()
        (path / f"{stem}.plan").write_text(program)
        (path / f"{stem}.json").write_text(json.dumps({"flavour": RTX, "sha256": digest}))
        engines.append(EngineFile(program, f"{stem}.plan", f"{stem}.json", RTX, "1.7", "any", "fp32"))
        for name in (f"{stem}.plan", f"{stem}.json"):
            data = (path / name).read_bytes()
            files[name] = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
    changed = dataclasses.replace(manifest, engines=tuple(engines), files=files)
    (path / "manifest.json").write_text(changed.to_json())
    return path


@pytest.fixture
def gpu() -> FakeLibrary:
    return FakeLibrary(total=1 << 32)


@pytest.fixture
def trt(bundle: Path, gpu: FakeLibrary, emulated_cuda: Path, monkeypatch, tmp_path: Path) -> FakeTensorRT:
    kernels = Kernels(kernel_library.open_library(emulated_cuda), gpu)
    programs = [p.read_text() for p in (bundle / "engines").glob("*.plan")]
    library = FakeTensorRT(gpu, {p.encode(): network_of(bundle / p) for p in programs})
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_library, "library", lambda: kernels)
    monkeypatch.setattr(cuda, "open_driver", lambda: Driver(gpu))
    monkeypatch.setattr(nvidia, "why_not", lambda manifest, config: "")
    monkeypatch.setattr(plan_module, "open_flavour", lambda name: Flavour(name, "1.7", library))
    return library


@pytest.mark.parametrize("graph", [False, True])
def test_answers_are_the_dense_programs(trt: FakeTensorRT, bundle: Path, make_image: MakeImage, graph: bool):
    """Also of batches and windows that are more than engines were built for."""
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 10:18, 20:30] = masks[1] = True
    images = np.concatenate([make_image(mask, seed) for seed, mask in enumerate(masks)])
    with load(bundle, backend="ort", threads=1) as on_cpu:
        expected = on_cpu.dense(images)
        on_cpu.set_choices({"gain": 3.0})
        changed = on_cpu.dense(images)
    with load(bundle, backend=TensorRTConfig(graph=graph), strategy="rects") as model:
        for _ in range(5):
            assert_close(model(images), expected)
        assert_close(model.dense(images), expected)
        model.set_choices({"gain": 3.0})
        assert_close(model(images), changed)
        assert_close(model(images[:2]), {name: value[:2] for name, value in changed.items()})
    assert sum(len(network.made) for network in trt.networks.values()) >= len(trt.networks) - 1


def test_regions_are_replayed_as_graphs(
    trt: FakeTensorRT, gpu: FakeLibrary, bundle: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
):
    """With all their engines in them: what changes from request to request is read anew, and the memory stays theirs,
    whatever else is taken and given back in between."""
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    with (
        load(bundle, backend="ort", threads=1) as on_cpu,
        load(bundle, backend=TensorRTConfig(), strategy="rects") as model,
    ):
        model.executor.costs, device = COSTS, model.device
        assert device is not None
        kept = []
        for number, side in enumerate(
            [16] * 5 + [13, 13, 0]
        ):  # fewer windows than were captured, and then none
            masks = np.zeros((2, 64, 64), bool)
            masks[0, 8 : 8 + side, 20:36] = True
            images = np.concatenate([make_image(mask, 2 * number + n) for n, mask in enumerate(masks)])
            kept.append((model(device.put(images)), dict(on_cpu.dense(images))))
        assert model.stats()["replayed"] == {"region0": 5}
        for answer, expected in kept:
            assert_close({n: device.get([value])[0] for n, value in answer.items()}, expected)
            del answer
        assert gpu.graphs and gpu.calls.count("cuGraphLaunch") > 3 * 5  # plan, run, and restoring
    del model, device, kept
    gc.collect()
    assert not gpu.graphs and not gpu.live and gpu.ended == 1


def test_choices_that_come_back_are_those_of_the_graph(
    trt: FakeTensorRT, bundle: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
):
    """The arrays that a graph reads them from have gone from everywhere else by then."""
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    mask = np.zeros((64, 64), bool)
    mask[8:24, 20:36] = True
    with (
        load(bundle, backend="ort", threads=1) as on_cpu,
        load(bundle, backend=TensorRTConfig(), strategy="rects") as model,
    ):
        model.executor.costs = COSTS
        for number, gain in enumerate([1.0] * 5 + [3.0] * 2 + [1.0] * 2):
            for each in (on_cpu, model):
                each.set_choices({"gain": gain})
            image = make_image(mask, number)
            assert_close(model(image), on_cpu.dense(image))
        assert model.stats()["replayed"]["region0"] > 2


def test_engines_of_one_image_take_windows_one_by_one(trt: FakeTensorRT, bundle: Path, make_image: MakeImage):
    manifest = Manifest.from_json((bundle / "manifest.json").read_text())

    def fixed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(spec, shape=(1, *spec.shape[1:])) for spec in specs)

    specs = {name: fixed(getattr(manifest, name)) for name in ("inputs", "outputs", "tensors")}
    (bundle / "manifest.json").write_text(dataclasses.replace(manifest, **specs).to_json())
    for port in (port for network in trt.networks.values() for port in network.inputs.values()):
        sizes = tuple((1, *size[1:]) if len(size) == 4 else size for size in port.sizes)
        object.__setattr__(port, "sizes", sizes)
    mask = np.zeros((64, 64), bool)
    mask[8:40, 8:40] = True
    image = make_image(mask)
    with load(bundle, backend="ort", threads=1) as on_cpu:
        expected = on_cpu.dense(image)
    with load(bundle, backend=TensorRTConfig(), strategy="rects") as model:
        model.executor.costs = COSTS
        assert_close(model(image), expected)


def test_contexts_that_cannot_be_captured_leave_regions_as_they_were(
    trt: FakeTensorRT, bundle: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    trt.fails.add("is_stream_capturable")
    mask = np.zeros((64, 64), bool)
    mask[8:24, 20:36] = True
    images = make_image(mask)
    with load(bundle, backend="ort", threads=1) as on_cpu:
        expected = on_cpu.dense(images)
    with load(bundle, backend=TensorRTConfig(), strategy="rects") as model:
        model.executor.costs = COSTS
        for _ in range(6):
            assert_close(model(images), expected)
        assert model.stats()["replayed"] == {"region0": 0}


def assert_close(found, expected) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5 * np.abs(value).max())
