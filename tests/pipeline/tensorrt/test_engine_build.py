"""Real builds of small graphs, and how refusals are told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from foveate.pipeline.tensorrt.engine_build import build_plan
from foveate.pipeline.tensorrt.flavour import ANY, FULL, RTX, Flavour
from foveate.pipeline.tensorrt.timing_cache import LIMIT, TimingCache
from foveate.runtime.errors import EngineError, ProgramError

PROFILE = {"x": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}


def test_an_engine_is_built_and_described(write_graph, rtx):
    path = write_graph(["a = Relu (x)", "y = Shape (a)"], x="float[n, 3, 8, 8]", y="int64[4]")
    built = build_plan(path, (PROFILE,), "sm89", rtx)
    assert len(built.plan) > 1000 and built.seconds > 0
    assert [(t.name, t.dtype, t.shape) for t in built.inputs] == [("x", "FLOAT", (-1, 3, 8, 8))]
    assert [(t.name, t.dtype) for t in built.outputs] == [("y", "INT64")]
    assert ("node0", "ACTIVATION", ("FLOAT",)) in [(s.name, s.kind, s.dtypes) for s in built.layers]


def test_a_graph_of_one_shape_needs_no_profile(write_graph, rtx):
    path = write_graph(["y = Relu (x)"], x="float[1, 3, 8, 8]", y="float[1, 3, 8, 8]")
    assert build_plan(path, (), "any", rtx).plan


def test_an_op_that_is_not_supported_is_named_with_its_node(write_graph, rtx):
    nodes = ["c = Constant <value_ints = [1]> ()", "d = Cast <to = 9> (c)", "y = Compress <axis = 1> (x, d)"]
    path = write_graph(nodes, x="float[n, 3, 8, 8]", y="float[n, m, 8, 8]")
    with pytest.raises(ProgramError, match=r"graph\.onnx, node node2 \(Compress\)") as caught:
        build_plan(path, (PROFILE,), "any", rtx)
    assert "build for cpu" in caught.value.fix


def test_a_file_that_does_not_parse_is_named(tmp_path, rtx):
    (tmp_path / "graph.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"reading graph\.onnx"):
        build_plan(tmp_path / "graph.onnx", (), "any", rtx)


def test_no_engine_becomes_an_error_with_the_builders_log(write_graph, rtx):
    """A reshape that no batch of the profile allows."""
    nodes = ["s = Constant <value_ints = [7, 3, 8, 8]> ()", "y = Reshape (x, s)"]
    path = write_graph(nodes, x="float[n, 3, 8, 8]", y="float[7, 3, 8, 8]")
    with pytest.raises(EngineError, match=r"building the engine of graph\.onnx: got .*\w") as caught:
        build_plan(path, (PROFILE,), "any", rtx)
    assert "nothing in its log" not in caught.value.got


def test_a_capability_that_the_builder_refuses_gives_no_engine(write_graph, rtx, monkeypatch):
    path = write_graph(["y = Relu (x)"], x="float[n, 3, 8, 8]", y="float[n, 3, 8, 8]")
    monkeypatch.setattr(
        type(rtx), "configure", lambda self, config, compute: setattr(config, "num_compute_capabilities", 1)
    )
    with pytest.raises(EngineError, match="an engine of tensorrt_rtx"):
        build_plan(path, (PROFILE,), "sm90", rtx)


class FakeFull:
    """The documented calls of full TensorRT 10 and 11 that a build makes, and none of those that 11 removed."""

    class ILogger:
        Severity = SimpleNamespace(WARNING=2)

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.given: list[bytes] = []
        self.refusals = 0  # builds that give nothing, until one does
        trt = self
        tensor = SimpleNamespace(name="x", dtype=SimpleNamespace(name="FLOAT"), shape=(-1, 3))
        layer = SimpleNamespace(
            name="l", type=SimpleNamespace(name="UNARY"), num_outputs=1, get_output=lambda i: tensor
        )
        self.network = SimpleNamespace(
            num_inputs=1,
            num_outputs=1,
            num_layers=1,
            get_input=lambda i: tensor,
            get_output=lambda i: tensor,
            get_layer=lambda i: layer,
        )
        cache = SimpleNamespace(serialize=lambda: b"timings")
        self.config = SimpleNamespace(
            add_optimization_profile=lambda profile: 0,
            set_flag=lambda flag: self.calls.append(f"set_flag {flag}"),
            clear_flag=lambda flag: self.calls.append(f"clear_flag {flag}"),
            create_timing_cache=lambda known: self.given.append(known),
            set_timing_cache=lambda cache, ignore: self.calls.append("set_timing_cache"),
            get_timing_cache=lambda: cache,
        )
        profile = SimpleNamespace(set_shape=lambda *a: self.calls.append(f"set_shape {a[0]}"))
        self.NetworkDefinitionCreationFlag = SimpleNamespace()
        self.BuilderFlag = SimpleNamespace(TF32="TF32")

        class Builder:
            def __init__(self, logger):
                self.create_network = lambda flags: trt.network
                self.create_builder_config = lambda: trt.config
                self.create_optimization_profile = lambda: profile
                self.build_serialized_network = lambda network, config: trt.build()

        self.Builder = Builder
        self.OnnxParser = lambda network, logger: SimpleNamespace(parse_from_file=lambda path: True)

    def build(self) -> bytes | None:
        self.refusals -= 1
        return b"plan" if self.refusals < 0 else None


def test_full_tensorrt_is_called_as_documented_and_its_timings_are_kept(tmp_path):
    trt, timing = FakeFull(), TimingCache(tmp_path / "timing.bin")
    flavour = Flavour(FULL, "11.0", trt)
    profile = {"x": ((1, 3), (1, 3), (2, 3))}
    built = build_plan(tmp_path / "graph.onnx", (profile,), "sm90", flavour, timing)
    assert built.plan == b"plan" and trt.calls == ["clear_flag TF32", "set_shape x", "set_timing_cache"]
    build_plan(tmp_path / "graph.onnx", (profile,), "sm90", flavour, timing)
    assert trt.given == [b"", b"timings"]


@pytest.mark.parametrize("refused", [0, 1])
def test_engines_take_no_memory_of_their_own_where_they_build_so(tmp_path, refused):
    trt = FakeFull()
    trt.BuilderFlag.REQUIRE_USER_ALLOCATION = "OWN"
    trt.refusals = refused
    built = build_plan(tmp_path / "graph.onnx", (), ANY, Flavour(RTX, "1.7", trt))
    asked = [call for call in trt.calls if "OWN" in call]
    assert built.plan == b"plan" and asked == ["set_flag OWN", "clear_flag OWN"][: 1 + refused]


def test_timings_that_grew_too_large_start_anew(tmp_path):
    timing, given = TimingCache(tmp_path / "timing.bin"), []
    config = SimpleNamespace(create_timing_cache=given.append, set_timing_cache=lambda cache, ignore: None)
    with (tmp_path / "timing.bin").open("wb") as file:
        file.truncate(LIMIT + 1)
    timing.give(config)
    assert given == [b""]
