"""Engines of TensorRT on a GPU that is none: shapes, outputs, what is replayed, what is kept, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foveate.runtime.device import replay
from foveate.runtime.device.cuda import CudaDevice
from foveate.runtime.device.driver import Driver
from foveate.runtime.device.engine import open_on_device
from foveate.runtime.engine import Ports, TensorRTConfig
from foveate.runtime.errors import EngineError, InputError
from foveate.runtime.manifest import TensorSpec
from foveate.runtime.tensorrt import flavour as flavour_module
from foveate.runtime.tensorrt import plan as plan_module
from foveate.runtime.tensorrt.flavour import FULL, RTX, Flavour

from ..device.cuda.fake_driver import FakeLibrary
from . import fake_tensorrt as fake
from .fake_tensorrt import FakeTensorRT, Network, Port

PORTS = Ports(
    (TensorSpec("x", "float32", ("batch", 3, "height/2")),),
    (TensorSpec("y", "float32", ("batch", 3, "height/2")),),
    (TensorSpec("extra", "float32", ("batch",)),),
)
X = Port(sizes=((1, 3, 1), (2, 3, 4), (4, 3, 8)))


def scaled() -> Network:
    """y = scale · x; beside it `unasked`, which the manifest does not know."""
    return Network(
        {"x": X, "scale": Port(sizes=((), (), ()))},
        {"unasked": Port(), "y": Port(), "extra": Port()},
        lambda shapes: {"unasked": (1,), "y": shapes["x"], "extra": shapes["x"][:1]},
        lambda v: {
            "unasked": np.zeros(1, np.float32),
            "y": v["x"] * v["scale"],
            "extra": v["x"].sum(axis=(1, 2)),
        },
    )


@pytest.fixture
def gpu() -> FakeLibrary:
    return FakeLibrary()


@pytest.fixture
def device(gpu) -> CudaDevice:
    return CudaDevice(Driver(gpu))


@pytest.fixture
def trt(gpu, monkeypatch, tmp_path) -> Callable[..., FakeTensorRT]:
    """`trt(network, flavour=RTX)`: the library with the network of the plan in tmp_path."""
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))

    def install(network: Network, flavour: str = RTX) -> FakeTensorRT:
        library = FakeTensorRT(gpu, {b"plan": network})
        if flavour == FULL:
            del library.Runtime.get_engine_validity
        monkeypatch.setattr(plan_module, "open_flavour", lambda name: Flavour(name, "1.7", library))
        (tmp_path / "net.any.plan").write_bytes(b"plan")
        facts = {"flavour": flavour, "sha256": "0123456789abcdef" * 4}
        (tmp_path / "net.any.json").write_text(json.dumps(facts))
        return library

    return install


@pytest.fixture
def engine(trt, device, tmp_path) -> Callable[..., Any]:
    """`engine(network, flavour=RTX, graph=False)`: opened."""

    def open_engine(network: Network, flavour: str = RTX, graph: bool = False, ports: Ports = PORTS) -> Any:
        trt(network, flavour)
        return open_on_device(tmp_path / "net.any.plan", TensorRTConfig(graph=graph), ports, device)

    return open_engine


def feeds(device: CudaDevice, batch: int = 2, height: int = 4, scale: float = 3.0) -> dict[str, Any]:
    x = np.random.default_rng(batch * height).random((batch, 3, height)).astype(np.float32)
    return {"x": device.put(x), "scale": device.put(np.array(scale, np.float32))}


def check(device: CudaDevice, engine: Any, given: dict[str, Any]) -> None:
    x, scale = device.get([given["x"], given["scale"]])
    y, extra = device.get(engine.run(given))
    np.testing.assert_array_equal(y, x * scale)
    np.testing.assert_allclose(extra, x.sum(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("flavour", [RTX, FULL])
def test_an_engine_runs_at_all_shapes_of_its_profile(engine, device, flavour):
    opened = engine(network := scaled(), flavour)
    assert (opened.inputs, opened.optional, opened.outputs) == (("x",), ("scale",), ("y", "extra"))
    assert opened.most({"x": (3, 4)}) == opened.most({"x": (8,)}) == 4 and opened.most({"x": (9,)}) == 0
    for batch, height in ((2, 4), (1, 1), (4, 8), (2, 4)):
        check(device, opened, feeds(device, batch, height))
    assert len(network.made) == 1  # one context serves all


def test_a_view_of_a_larger_array_is_fed_as_it_is(engine, device):
    opened = engine(scaled())
    whole = feeds(device, 4, 8)
    check(device, opened, {**whole, "x": whole["x"].view((2, 3, 4))})


def test_shapes_beyond_the_profile_say_which_dim_to_widen(engine, device):
    opened = engine(scaled())
    with pytest.raises(InputError, match=r"\[5, 3, 9\]; expected \[1..4, 3, 1..8\](.|\n)*--profile height="):
        opened.run(feeds(device, 5, 9))
    with pytest.raises(InputError, match=r"--profile height="):
        opened.run(feeds(device, 2, 9))
    given = feeds(device)
    with pytest.raises(InputError, match="int32; expected float32"):
        opened.run({**given, "x": device.put(np.zeros((2, 3, 4), np.int32))})
    check(device, opened, given)


@pytest.mark.parametrize("graph", [False, True])
def test_more_images_than_it_was_built_for_run_in_parts(engine, device, graph, monkeypatch):
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    opened = engine(network := scaled(), graph=graph)
    for batch in (5, 64, 9, 4):
        before = network.made[0].runs
        check(device, opened, feeds(device, batch))
        assert graph or network.made[0].runs - before == -(-batch // 4)


def test_what_is_not_per_image_runs_whole_or_not_at_all(engine, device):
    """An output of all images together, or a batch that has a least."""
    ports = Ports(PORTS.inputs, (TensorSpec("y", "float32", ("found",)),))
    network = Network({"x": X}, {"y": Port()}, lambda shapes: {"y": (-1,)}, lambda v: {"y": v["x"].ravel()})
    with pytest.raises(InputError, match=r"\[5, 3, 4\]; expected \[1..4, 3, 1..8\](.|\n)*--profile batch="):
        engine(network, ports=ports).run({"x": feeds(device, 5)["x"]})
    network = scaled()
    network.inputs["x"] = Port(sizes=((4, 3, 1), (4, 3, 4), (4, 3, 8)))
    with pytest.raises(InputError, match=r"\[3, 3, 4\]; expected \[4, 3, 1..8\](.|\n)*--profile batch="):
        engine(network).run(feeds(device, 6))


def test_of_several_profiles_the_narrowest_that_fits_is_taken(engine, device):
    """Whole maps, or many windows of them."""
    network = scaled()
    network.inputs["x"] = Port(sizes=X.sizes, others=(((1, 3, 1), (16, 3, 2), (32, 3, 2)),))
    network.inputs["scale"] = Port(sizes=((), (), ()), others=(((), (), ()),))
    opened = engine(network)
    assert [opened.most({"x": (height,)}) for height in (1, 2, 3, 8, 9)] == [32, 32, 4, 4, 0]
    for batch, height, profile, calls in (
        (2, 4, 0, 1),
        (32, 2, 1, 1),
        (1, 1, 1, 1),
        (5, 4, 0, 2),
        (40, 2, 1, 2),
    ):
        before = network.made[0].runs
        check(device, opened, feeds(device, batch, height))
        assert (network.made[0].profile, network.made[0].runs - before) == (profile, calls)


def test_outputs_of_shapes_that_only_the_data_tell(engine, device):
    """The positive values of x."""
    ports = Ports(PORTS.inputs, (TensorSpec("y", "float32", ("found",)),))
    network = Network(
        {"x": X}, {"y": Port()}, lambda shapes: {"y": (-1,)}, lambda v: {"y": v["x"][v["x"] > 0]}
    )
    opened = engine(network, graph=True, ports=ports)
    for _ in range(5):  # never replayed
        x = np.random.default_rng(3).standard_normal((2, 3, 4)).astype(np.float32)
        first, nothing = opened.run({"x": device.put(x)}), opened.run({"x": device.put(-abs(x))})
        found, empty = device.get([*first, *nothing])
        np.testing.assert_array_equal(found, x[x > 0])
        assert empty.shape == (0,)


def test_memory_that_runs_out_in_the_midst_of_a_run_is_named(engine, device, gpu):
    ports = Ports(PORTS.inputs, (TensorSpec("y", "float32", ("found",)),))
    network = Network({"x": X}, {"y": Port()}, lambda shapes: {"y": (-1,)}, lambda v: {"y": v["x"].ravel()})
    opened = engine(network, ports=ports)
    given = {"x": feeds(device)["x"]}
    opened.run(given)
    gpu.total = 0
    with pytest.raises(EngineError, match="OUT_OF_MEMORY"):
        opened.run(given)


def test_inputs_that_are_shapes_are_read_on_the_host(engine, device):
    ports = Ports((*PORTS.inputs, TensorSpec("sizes", "int64", (2,))), PORTS.outputs)
    network = Network(
        {"x": X, "sizes": Port("INT64", ((2,), (2,), (2,)), host=True)},
        {"y": Port()},
        lambda shapes: {"y": shapes["x"]},
        lambda v: {"y": v["x"] * v["sizes"].sum()},
    )
    opened = engine(network, graph=True, ports=ports)
    x = feeds(device)["x"]
    for sizes in ([1, 2], [3, 4], [1, 2]):
        given = {"x": x, "sizes": device.put(np.array(sizes))}
        made, value = device.get([*opened.run(given), x])
        np.testing.assert_array_equal(made, value * sum(sizes))


@pytest.mark.parametrize("flavour", [RTX, FULL])
def test_what_comes_back_is_replayed_where_that_is_faster(engine, device, gpu, monkeypatch, flavour):
    times = iter(t for pair in range(1000) for t in (pair, pair + (0.5 if pair % 2 else 1.0)))
    monkeypatch.setattr(replay, "perf_counter", lambda: next(times))
    opened = engine(network := scaled(), flavour, graph=True)
    kept = []
    for number in range(8):
        given = feeds(device, 2, 4, scale=number)
        check(device, opened, given)
        kept.append((number, given, opened.run(given)))
    for number, given, outputs in kept:  # each has memory of its own
        x, y = device.get([given["x"], outputs[0]])
        np.testing.assert_array_equal(y, x * number)
    plain, replayed = network.made
    runs = plain.runs, replayed.runs
    check(device, opened, feeds(device, 2, 4))
    assert (plain.runs, replayed.runs) == (runs[0], runs[1] + (flavour == RTX))
    assert len(gpu.graphs) == (flavour == FULL)
    if flavour == RTX:
        assert replayed.config.cuda_graph_strategy is fake.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        assert plain.config.cuda_graph_strategy is fake.CudaGraphStrategy.DISABLED


def test_what_is_slower_replayed_is_not(engine, device, monkeypatch):
    times = iter(t for pair in range(1000) for t in (pair, pair + (1.0 if pair % 2 else 0.5)))
    monkeypatch.setattr(replay, "perf_counter", lambda: next(times))
    opened = engine(network := scaled(), graph=True)
    for _ in range(6):
        check(device, opened, feeds(device))
    runs = network.made[1].runs
    check(device, opened, feeds(device))
    assert len(network.made) == 2 and network.made[1].runs == runs


def test_what_cannot_be_captured_runs_as_before(engine, device, gpu, caplog):
    opened = engine(scaled(), FULL, graph=True)
    check(device, opened, feeds(device))
    check(device, opened, feeds(device))
    check(device, opened, feeds(device))
    gpu.fail["cuStreamEndCapture"] = 900
    with caplog.at_level("DEBUG", "foveate"):
        check(device, opened, feeds(device))
    assert "no CUDA graph" in caplog.text and not gpu.graphs
    check(device, opened, feeds(device))


def test_graphs_of_few_shapes_are_kept(engine, device, gpu, monkeypatch):
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    monkeypatch.setattr(replay, "_MOST", 2)
    opened = engine(scaled(), FULL, graph=True)
    for height in (1, 2, 3, 4):
        for _ in range(5):
            check(device, opened, feeds(device, 1, height))
    assert len(gpu.graphs) == 2
    opened.close()
    assert not gpu.graphs


def test_what_was_compiled_is_kept_for_the_next_process(engine, device, tmp_path):
    first = engine(scaled())
    assert first.timing["jit_known"] == 0
    check(device, first, feeds(device))
    (file,) = (tmp_path / "cache" / "jit").iterdir()
    assert file.name == "0123456789abcdef" * 2 + ".sm90.1.7.bin"
    network = scaled()
    second = engine(network)
    assert second.timing["jit_known"] == len(file.read_bytes())
    assert network.made[0].config.cache.blob == file.read_bytes()
    assert {"deserialize", "context"} < set(second.timing) and "first_run" not in second.timing
    check(device, second, feeds(device))
    assert second.timing["first_run"] > 0


def test_a_cache_that_cannot_be_written_is_no_error(engine, device, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "jit").write_text("in the way")
    check(device, engine(scaled()), feeds(device))
    assert "is not kept" in caplog.text


def test_full_tensorrt_compiles_nothing(engine, device, tmp_path):
    opened = engine(scaled(), FULL)
    check(device, opened, feeds(device))
    opened.close()
    assert not (tmp_path / "cache").exists()


def test_a_plan_that_does_not_fit_says_what_the_library_said(trt, device, tmp_path):
    trt(scaled())
    (tmp_path / "net.any.plan").write_bytes(b"of another GPU")
    with pytest.raises(EngineError, match=r"UNSUPPORTED_CC(.|\n)*it said why(.|\n)*foveate build"):
        open_on_device(tmp_path / "net.any.plan", TensorRTConfig(), PORTS, device)
    trt(scaled(), FULL)
    (tmp_path / "net.any.plan").write_bytes(b"of another GPU")
    with pytest.raises(EngineError, match=r"got it said why"):
        open_on_device(tmp_path / "net.any.plan", TensorRTConfig(), PORTS, device)


def test_a_plan_without_its_facts_is_refused(trt, device, tmp_path):
    trt(scaled())
    (tmp_path / "net.any.json").write_text("{}")
    with pytest.raises(EngineError, match=r"net.any.json: KeyError"):
        open_on_device(tmp_path / "net.any.plan", TensorRTConfig(), PORTS, device)


def test_a_plan_gets_its_plugins_or_is_refused(trt, device, tmp_path, monkeypatch):
    trt(scaled())
    facts = json.loads((tmp_path / "net.any.json").read_text()) | {"plugins": ["EnergyMask 1"]}
    (tmp_path / "net.any.json").write_text(json.dumps(facts))
    monkeypatch.setattr(plan_module, "load_plugins", lambda trt: ("EnergyMask 1", "DeformableSample 1"))
    open_on_device(tmp_path / "net.any.plan", TensorRTConfig(), PORTS, device)
    monkeypatch.setattr(plan_module, "load_plugins", lambda trt: ())
    monkeypatch.setattr(plan_module, "why_missing", lambda: "no nvcc")
    with pytest.raises(EngineError, match=r"no plugin EnergyMask 1 \(no nvcc\)"):
        open_on_device(tmp_path / "net.any.plan", TensorRTConfig(), PORTS, device)


def test_calls_that_fail_are_named_with_the_log(trt, device, tmp_path):
    library = trt(scaled())
    opened = open_on_device(tmp_path / "net.any.plan", TensorRTConfig(), PORTS, device)
    library.fails.add("execute_async_v3")
    with pytest.raises(EngineError, match=r"running it: got it said why"):
        opened.run(feeds(device))
    library.fails.add("create_execution_context")
    with pytest.raises(EngineError, match="making an execution context"):
        open_on_device(tmp_path / "net.any.plan", TensorRTConfig(), PORTS, device)


def test_an_engine_of_other_outputs_or_types_is_refused(engine):
    with pytest.raises(EngineError, match=r"outputs \['unasked', 'y'(.|\n)*|does not fit"):
        engine(scaled(), ports=Ports(PORTS.inputs, (TensorSpec("z", "float32", (1,)),)))
    network = scaled()
    network.outputs["y"] = Port("BF16")
    with pytest.raises(EngineError, match="BF16"):
        engine(network)


def test_all_runs_work_in_the_same_memory(engine, device):
    engines = [engine(scaled()) for _ in range(2)]
    for opened in engines:
        check(device, opened, feeds(device, 4, 8))
    scratch = device.scratch(0).pointer
    for opened in engines:
        check(device, opened, feeds(device, 1, 1))
    assert device.scratch(0).pointer == scratch


KINDS = {
    fake.FakeEngine: "ICudaEngine",
    fake.FakeContext: "IExecutionContext",
    fake.FakeRuntimeConfig: "IRuntimeConfig",
    fake.FakeRuntimeCache: "IRuntimeCache",
    fake.DataType: "DataType",
    fake.TensorIOMode: "TensorIOMode",
    fake.TensorLocation: "TensorLocation",
    fake.ExecutionContextAllocationStrategy: "ExecutionContextAllocationStrategy",
    fake.DynamicShapesKernelSpecializationStrategy: "DynamicShapesKernelSpecializationStrategy",
    fake.CudaGraphStrategy: "CudaGraphStrategy",
}
OURS = {"config", "runs", "blob", "cache", "memory", "profile"}  # of the stand-ins


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_the_stand_in_has_nothing_that_tensorrt_rtx_has_not(kind):
    real = getattr(flavour_module.open_flavour(RTX).module, KINDS[kind])
    names = {n for n in vars(kind) if not n.startswith("_")} - OURS
    assert names and not {name for name in names if not hasattr(real, name)}


def test_the_real_library_takes_our_logger_and_allocator():
    """Without a GPU nothing is deserialized; the runtime is made, and says what is wrong with a plan."""
    from foveate.runtime.tensorrt.context import _allocator_class

    found = flavour_module.open_flavour(RTX)
    allocator = _allocator_class(found.module)(None)
    assert isinstance(allocator, found.module.IOutputAllocator)
    with found.logged() as log:
        runtime = found.runtime()
        assert runtime.deserialize_cuda_engine(b"no plan") is None
    assert log and found.why_invalid(runtime, b"no plan")


def test_files_of_the_manifest_are_where_the_engine_looks(tmp_path: Path):
    """The sidecar that `foveate build` writes has what is read of it."""
    from foveate.pipeline.tensorrt.sidecar import Sidecar

    assert {"flavour", "sha256"} <= set(Sidecar.__dataclass_fields__)
