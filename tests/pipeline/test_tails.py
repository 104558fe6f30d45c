"""Streams are cut at narrow places, where there are any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline import tails
from foveate.pipeline.build import build
from foveate.pipeline.inspect import inspect
from foveate.runtime import load
from foveate.runtime.fallback import Fallback
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

helper = onnx.helper


class Network:
    """3 × 3 convolutions that read `image`."""

    def __init__(self, channels: int):
        self.channels, self.nodes, self.weights = channels, [], []

    def add(self, op: str, *inputs: str, **attributes) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def conv(self, x: str) -> str:
        read = 3 if x == "image" else self.channels
        weight = np.random.default_rng(0).standard_normal((self.channels, read, 3, 3)).astype(np.float32)
        self.weights.append(onnx.numpy_helper.from_array(weight / 10, f"w{len(self.nodes)}"))
        return self.add("Conv", x, f"w{len(self.nodes)}", pads=[1] * 4)

    def save(self, path: Path, *outputs: str) -> Path:
        kind = onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info("image", kind, ["batch", 3, "height", "width"])
        made = [helper.make_tensor_value_info(o, kind, ["batch", None, None, None]) for o in outputs]
        graph = helper.make_graph(self.nodes, "network", [image], made, self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path


def tails_of(program: Path) -> list[dict]:
    return inspect(program)["stream"]["tails"]


def test_a_chain_is_cut_near_its_thirds(tmp_path: Path):
    network, x = Network(32), "image"
    for _ in range(10):
        x = network.conv(x)
    found = tails_of(network.save(tmp_path / "chain.onnx", x))
    assert [tail["ops"] for tail in found] == [4, 7]  # the first is cheap
    assert all(len(tail["inputs"]) == 1 and tail["outputs"] == (x,) for tail in found)


def test_shortcuts_cross(tmp_path: Path):
    network = Network(32)
    x = early = network.conv("image")
    for _ in range(6):
        x = network.conv(x)
    found = tails_of(network.save(tmp_path / "skip.onnx", network.add("Add", x, early)))
    assert [len(tail["inputs"]) for tail in found] == [2, 2] and all(early in t["inputs"] for t in found)


@pytest.mark.parametrize("name", ["thin", "wide"])
def test_where_no_place_is_narrow_there_is_no_cut(tmp_path: Path, name: str):
    network, branches = Network(2 if name == "thin" else 32), ["image"] * (1 if name == "thin" else 5)
    for _ in range(4):
        branches = [network.conv(x) for x in branches]
    joined = network.add("Concat", *branches, axis=1)
    assert tails_of(network.save(tmp_path / "program.onnx", joined)) == ()


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a program is built for each example: shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_any_graph_at_any_levels(random_program: Callable, tmp_path_factory, data):
    """Also such that no place in it is narrow. No bytes cross: engines take floats alone. Where there are bytes,
    onnxruntime's rewriting moves values to the next one."""
    steps, quantized = data.draw(st.integers(3, 8)), data.draw(st.booleans())
    tolerance = 0.05 if quantized else 1e-4
    program = random_program(data.draw, steps, masked=False, quantized=quantized)
    folder = tmp_path_factory.mktemp("random")
    size = data.draw(st.tuples(st.integers(11, 30), st.integers(11, 30)))
    onnx.save(program, folder / "program.onnx")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tails, "_MOST_HANDED", 1e9)
        bundle = build(folder / "program.onnx", folder / "bundle", sample=(1, 4, *size))
        patched.setattr(Fallback, "looks", True)
        patched.setattr(Fallback, "choose", lambda self, foreseen: min(levels.pop(), len(foreseen)))
        with load(bundle, threads=1) as model:
            if model.manifest.stream is None:
                return
            kinds = {spec.name: spec.dtype for spec in (*model.manifest.tensors, *model.manifest.inputs)}
            assert {kinds.get(t, "float32") for c in model.manifest.stream.tails for t in c.inputs} <= {
                "float32"
            }
            stream, frame = model.stream(), rng.standard_normal((1, 4, *size)).astype(np.float32)
            levels = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=8))
            for _ in range(len(levels) + 1):
                frame = frame.copy()
                frame[..., rng.integers(size[0]) :, rng.integers(size[1]) :] += 1
                found, wanted = stream(frame), model.dense(frame)
                for name, value in wanted.items():
                    assert np.abs(found[name] - value).max() <= tolerance * max(np.abs(value).max(), 1e-2), (
                        name
                    )
